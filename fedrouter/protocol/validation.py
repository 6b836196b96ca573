"""A client's reply, checked before anything of it is used.

The codec has checked that all arrays hold finite numbers (`codec.unpack_reply`).
A fault costs the client its part in the round: the reason goes into the log and into metrics.jsonl.
Reasons quote no text from the reply except names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import (
    AssignToStarts,
    ClientReply,
    ClientRequest,
    DescribeEmbeddings,
    DetectNewTasks,
    EvaluationReport,
    GroupByLabel,
    OrderWithGeometry,
    ProfileOrder,
    TrainOrder,
    Update,
    asks_scatter,
)
from fedrouter.routing.types import TaskProfile
from fedrouter.routing.whitening import LARGEST
from fedrouter.types import select_matrices

MAX_COUNT = 10**9  # samples, tokens or rows: more than any client has
MAX_LOSS = 1e6
MAX_LABEL = 200  # characters of a true task's name
MAX_TABLE = 10_000  # labels, or local tasks


@dataclass(frozen=True)
class ExpectedArrays:
    """What arrays of a run look like.

    Attributes:
        shapes: names and shapes of a whole adapter's tensors.
        dimension: the number of dimensions of embeddings.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dimension: int


def check_reply(request: ClientRequest, reply: ClientReply, expected: ExpectedArrays) -> None:
    """Check that a reply answers its request, with arrays of the right shapes and sane numbers.

    Args:
        request: what was asked.
        reply: the answer.
        expected: what the arrays of the run look like.

    Raises:
        MessageError: one line that names the first fault.
    """
    if (reply.client, reply.round) != (request.client, request.round):
        raise MessageError(
            f"reply: expected client {request.client} and round {request.round}, got client "
            f"{reply.client} and round {reply.round}"
        )
    if reply.changed:
        if reply != ClientReply(reply.client, reply.round, changed=True):
            raise MessageError("reply: expected nothing else if the data changed, got more")
        return
    for part, asked, given in (
        ("profile", request.profile, reply.profile),
        ("evaluation", request.evaluate, reply.evaluation),
    ):
        if (asked is None) != (given is None):
            raise MessageError(f"{part}: expected {_one(asked)}, got {_one(given)}")
    if request.profile is not None and reply.profile is not None:
        check_profile(request.profile, reply.profile, request.client, expected.dimension)
    _check_losses(request, reply)
    if reply.evaluation is not None:
        _check_evaluation(reply.evaluation)
    slots = [update.slot for update in reply.updates]
    if slots != list(range(len(request.train))):
        raise MessageError(
            f"updates: expected one for each of {len(request.train)} train orders in order, got "
            f"those of orders {slots[:20]}"
        )
    for order, update in zip(request.train, reply.updates, strict=True):
        _check_update(order, update, expected)


def _one(part: object) -> str:
    return "none" if part is None else "one"


def check_profile(order: ProfileOrder, profile: TaskProfile, client: int, dimension: int) -> None:
    """Check what a client reports about its data against what was asked.

    Args:
        order: what was asked.
        profile: the answer.
        client: who was asked.
        dimension: the number of dimensions of embeddings.

    Raises:
        MessageError: one line that names the first fault.
    """
    if profile.client != client:
        raise MessageError(f"profile: expected that of client {client}, got {profile.client}")
    counts, centroids = profile.counts, profile.centroids
    if not 1 <= len(counts) <= MAX_TABLE:
        raise MessageError(f"profile: expected 1 to {MAX_TABLE} local tasks, got {len(counts)}")
    if centroids.dtype != np.float32 or centroids.shape != (len(counts), dimension):
        raise MessageError(
            f"profile: expected float32 centroids of shape ({len(counts)}, {dimension}), got "
            f"{centroids.dtype} of shape {centroids.shape}"
        )
    if not np.isfinite(centroids).all():
        raise MessageError("profile: expected finite centroids")
    for count in counts:
        _check_count("profile", "samples", count)
    for what, moments in (
        ("second", profile.second_moments),
        ("fourth", profile.fourth_moments),
    ):
        if len(moments) != len(counts) or not all(0 <= m < np.inf for m in moments):
            raise MessageError(
                f"profile: expected one finite, not negative {what} moment for each of "
                f"{len(counts)} local tasks"
            )
    _check_tasks(order, profile)
    _check_variances(order, profile, dimension)
    _check_scatter(order, profile, min(dimension, LARGEST))
    names = len(counts) if isinstance(order, GroupByLabel) else 0
    if len(profile.names) != names:
        raise MessageError(f"profile: expected {names} task names, got {len(profile.names)}")
    _check_labels("profile", profile.names)


def _check_tasks(order: ProfileOrder, profile: TaskProfile) -> None:
    tasks = profile.tasks
    if isinstance(order, AssignToStarts):
        number = sum(map(len, order.starts))
    elif isinstance(order, OrderWithGeometry):
        number = len(order.geometry.centroids)
    else:
        if tasks:
            raise MessageError(f"profile: expected no global tasks, got {len(tasks)}")
        return
    new = -1 if isinstance(order, DetectNewTasks) else None
    known = [task for task in tasks if task != new]
    possible = all(0 <= task < number for task in known) and len(known) == len(set(known))
    if len(tasks) != len(profile.counts) or not possible:
        raise MessageError(
            f"profile: expected a different one of {number} global tasks for each of "
            f"{len(profile.counts)} local tasks"
        )


def _check_variances(order: ProfileOrder, profile: TaskProfile, dimension: int) -> None:
    asked, variances = isinstance(order, DescribeEmbeddings), profile.variances
    if (variances is not None) != asked:
        raise MessageError(
            f"profile: expected {'' if asked else 'no '}variances, got {_one(variances)}"
        )
    if variances is None:
        return
    if len(profile.counts) != 1:
        raise MessageError(f"profile: expected one local task, got {len(profile.counts)}")
    if variances.dtype != np.float32 or variances.shape != (dimension,):
        raise MessageError(
            f"profile: expected float32 variances of shape ({dimension},), got {variances.dtype} "
            f"of shape {variances.shape}"
        )
    if not np.isfinite(variances).all() or not (variances >= 0).all():
        raise MessageError("profile: expected finite, not negative variances")


def _check_scatter(order: ProfileOrder, profile: TaskProfile, size: int) -> None:
    scatter = profile.scatter
    if (scatter is not None) != asks_scatter(order):
        raise MessageError(
            f"profile: expected {'a' if asks_scatter(order) else 'no'} scatter, got {_one(scatter)}"
        )
    if scatter is None:
        return
    products, number = scatter.products, size * (size + 1) // 2
    if products.dtype != np.float32 or products.shape != (number,):
        raise MessageError(
            f"profile: expected a float32 scatter of shape ({number},), got {products.dtype} of "
            f"shape {products.shape}"
        )
    if not np.isfinite(products).all() or not 0 <= scatter.fourth < np.inf:
        raise MessageError("profile: expected a scatter of finite numbers")


def _check_losses(request: ClientRequest, reply: ClientReply) -> None:
    asked = [(order.local_task, {*order.adapters}) for order in request.compare]
    if [(one.local_task, {*one.adapters}) for one in reply.losses] != asked:
        raise MessageError(
            f"losses: expected those of {len(asked)} comparisons, with the adapters asked for"
        )
    for one in reply.losses:
        _check_count("losses", "samples", one.samples)
        for loss in (one.base, *one.adapters.values()):
            _check_loss("losses", loss)


def _check_evaluation(evaluation: EvaluationReport) -> None:
    for by_label in evaluation.scores.values():
        _check_labels("evaluation", by_label)
        for one in by_label.values():
            _check_count("evaluation", "test rows", one.rows)
            if not all(np.isfinite(score) for score in one.scores.values()):
                raise MessageError("evaluation: expected finite scores")
    if len(evaluation.local_tasks) > MAX_TABLE:
        raise MessageError(
            f"evaluation: expected at most {MAX_TABLE} local tasks, got "
            f"{len(evaluation.local_tasks)}"
        )
    for table in (*evaluation.routed.values(), *evaluation.local_tasks):
        _check_labels("evaluation", table)
        for count in table.values():
            _check_count("evaluation", "rows", count)


def _check_update(order: TrainOrder, update: Update, expected: ExpectedArrays) -> None:
    where = f"update {update.slot}"
    if update.adapter not in (order.adapters or (None,)):
        raise MessageError(f"{where}: expected an adapter that its order names")
    shapes = select_matrices(expected.shapes, order.send)
    for name in sorted(update.weights.keys() ^ shapes.keys()):
        which = "is missing" if name in shapes else "was not asked for"
        raise MessageError(f"{where}: tensor {name[:MAX_LABEL]!r} {which}")
    for name, array in update.weights.items():
        if array.dtype != np.float32 or array.shape != shapes[name]:
            raise MessageError(
                f"{where}: tensor {name!r}: expected float32 of shape {shapes[name]}, got "
                f"{array.dtype} of shape {array.shape}"
            )
    _check_count(where, "samples", update.samples)
    _check_count(where, "tokens", update.tokens)
    _check_loss(where, update.loss)


def _check_loss(where: str, loss: float) -> None:
    if not 0 <= loss <= MAX_LOSS:
        raise MessageError(
            f"{where}: expected a loss from 0 to {MAX_LOSS:g}, got {loss:g}; lower training.lr if "
            "training diverged"
        )


def _check_count(where: str, what: str, count: int) -> None:
    if not 1 <= count <= MAX_COUNT:
        raise MessageError(f"{where}: expected 1 to {MAX_COUNT} {what}, got {count}")


def _check_labels(where: str, labels: Iterable[str]) -> None:
    known = list(labels)
    if len(known) > MAX_TABLE or any(len(label) > MAX_LABEL for label in known):
        raise MessageError(
            f"{where}: expected at most {MAX_TABLE} task names of at most {MAX_LABEL} characters"
        )
