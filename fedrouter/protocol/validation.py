"""A client's reply, checked before anything of it is used.

What is wrong costs the client its part in the round: the reason goes into the log and into
metrics.jsonl. Reasons quote no text from the reply, names excepted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import (
    ClientReply,
    ClientRequest,
    DetectNewTasks,
    EvaluationReport,
    GroupByLabel,
    OrderWithGeometry,
    ProfileOrder,
    TrainOrder,
    Update,
    asks_scatter,
)
from fedrouter.routing.clustering import check_profile
from fedrouter.routing.types import TaskProfile
from fedrouter.routing.whitening import LARGEST
from fedrouter.types import select_matrices

LARGEST_COUNT = 10**9  # samples, tokens or rows: more than any client has
LARGEST_LOSS = 1e6
LARGEST_NUMBER = 1e6  # in an adapter; trained ones stay below 100
LARGEST_LABEL = 200  # characters of a true task's name
LARGEST_TABLE = 10_000  # labels, or local tasks


@dataclass(frozen=True)
class ExpectedArrays:
    """What arrays of a run look like.

    Attributes:
        shapes: names and shapes of a whole adapter's tensors.
        dimension: that of embeddings.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dimension: int


def check_reply(task: ClientRequest, reply: ClientReply, expected: ExpectedArrays) -> None:
    """Check that a reply answers its task, with arrays of the right shapes and sane numbers.

    Args:
        task: what was asked.
        reply: the answer.
        expected: what the arrays of the run look like.

    Raises:
        MessageError: one line that names the first fault.
    """
    if (reply.client, reply.round) != (task.client, task.round):
        raise MessageError(
            f"the reply is for client {reply.client} and round {reply.round}, "
            f"not for client {task.client} and round {task.round}"
        )
    if reply.changed:
        if reply != ClientReply(reply.client, reply.round, changed=True):
            raise MessageError("the data have changed, but there is more in the reply")
        return
    for part, asked, given in (
        ("profile", task.profile, reply.profile),
        ("evaluation", task.evaluate, reply.evaluation),
    ):
        if (asked is None) != (given is None):
            raise MessageError(f"the {part} {'was not asked for' if given else 'is missing'}")
    if task.profile is not None and reply.profile is not None:
        _check_profile(task.profile, reply.profile, task.client, expected.dimension)
    _check_losses(task, reply)
    if reply.evaluation is not None:
        _check_findings(reply.evaluation)
    if [update.slot for update in reply.updates] != list(range(len(task.train))):
        raise MessageError(f"{len(reply.updates)} updates do not answer {len(task.train)} orders")
    for order, update in zip(task.train, reply.updates, strict=True):
        _check_update(order, update, expected)


def _check_profile(order: ProfileOrder, profile: TaskProfile, client: int, dimension: int) -> None:
    if profile.client != client:
        raise MessageError(f"the profile is that of client {profile.client}")
    if profile.centroids.dtype != np.float32 or profile.centroids.ndim != 2:
        raise MessageError("the profile's centroids are not a float32 matrix")
    if len(profile.counts) > LARGEST_TABLE or max(profile.counts, default=0) > LARGEST_COUNT:
        raise MessageError("the profile has absurdly many local tasks or samples")
    check_profile(profile, dimension)
    _check_tasks(order, profile)
    _check_scatter(order, profile, min(dimension, LARGEST))
    if len(profile.names) != (len(profile.counts) if isinstance(order, GroupByLabel) else 0):
        raise MessageError("the profile names not each of its local tasks, or names unasked")
    _check_labels(profile.names)


def _check_tasks(order: ProfileOrder, profile: TaskProfile) -> None:
    placed = isinstance(order, OrderWithGeometry)
    number = len(order.geometry.centroids) if isinstance(order, OrderWithGeometry) else 0
    expected = len(profile.counts) if placed else 0
    new = -1 if isinstance(order, DetectNewTasks) else None
    known = [task for task in profile.tasks if task != new]
    distinct = len(profile.tasks) == expected and len(known) == len(set(known))
    if not distinct or not all(0 <= t < number for t in known):
        raise MessageError("the profile names not one global task for each local task")


def _check_scatter(order: ProfileOrder, profile: TaskProfile, size: int) -> None:
    found = profile.scatter
    if (found is not None) != asks_scatter(order):
        raise MessageError("the profile lacks its scatter, or has one unasked")
    if found is None:
        return
    products = found.products
    if products.dtype != np.float32 or products.shape != (size * (size + 1) // 2,):
        raise MessageError(f"the profile's scatter is not that of {size} dimensions")
    if not np.isfinite(products).all() or not 0 <= found.fourth < np.inf:
        raise MessageError("the profile's scatter is not finite")


def _check_losses(task: ClientRequest, reply: ClientReply) -> None:
    asked = [(one.local_task, {*one.adapters}) for one in task.compare]
    if [(one.local_task, {*one.adapters}) for one in reply.losses] != asked:
        raise MessageError("the losses do not answer the comparisons that were asked for")
    for one in reply.losses:
        _check_count("samples", one.samples)
        if not all(0 <= loss <= LARGEST_LOSS for loss in (one.base, *one.adapters.values())):
            raise MessageError("a loss of a comparison is not possible")


def _check_findings(evaluation: EvaluationReport) -> None:
    for by_label in evaluation.scores.values():
        _check_labels(by_label)
        for one in by_label.values():
            _check_count("test rows", one.rows)
            if not all(np.isfinite(score) for score in one.scores.values()):
                raise MessageError("a score is not a finite number")
    if len(evaluation.found) > LARGEST_TABLE:
        raise MessageError("the evaluation has absurdly many local tasks")
    for table in (*evaluation.routed.values(), *evaluation.found):
        _check_labels(table)
        for count in table.values():
            _check_count("rows", count)


def _check_update(order: TrainOrder, update: Update, expected: ExpectedArrays) -> None:
    named = order.adapters or (None,)
    if update.adapter not in named:
        raise MessageError(f"update {update.slot} is of an adapter that its order does not name")
    shapes = select_matrices(expected.shapes, order.send)
    for name in sorted(update.weights.keys() ^ shapes.keys()):
        which = "missing" if name in shapes else "not one that was asked for"
        raise MessageError(f"update {update.slot}: tensor {name[:LARGEST_LABEL]!r} is {which}")
    for name, array in update.weights.items():
        if array.dtype != np.float32 or array.shape != shapes[name]:
            raise MessageError(
                f"update {update.slot}: tensor {name!r} is {array.dtype} of shape {array.shape}, "
                f"not float32 of shape {shapes[name]}"
            )
        if not np.isfinite(array).all() or np.abs(array).max(initial=0) > LARGEST_NUMBER:
            raise MessageError(
                f"update {update.slot}: tensor {name!r} holds numbers that are not finite, "
                f"or beyond {LARGEST_NUMBER:g}"
            )
    _check_count("samples", update.samples)
    _check_count("tokens", update.tokens)
    if not 0 <= update.loss <= LARGEST_LOSS:
        raise MessageError(f"update {update.slot}: a loss of {update.loss} is not possible")


def _check_count(what: str, count: int) -> None:
    if not 1 <= count <= LARGEST_COUNT:
        raise MessageError(f"{count} {what} are not possible")


def _check_labels(labels: Iterable[str]) -> None:
    known = list(labels)
    if len(known) > LARGEST_TABLE or any(len(label) > LARGEST_LABEL for label in known):
        raise MessageError("the names of true tasks are too many or too long")
