"""A client's reply, checked against its request before anything of it is used.

The codec has checked that all arrays hold finite numbers (`codec.unpack_reply`). What a profile
and an evaluation must be like is in `profile_validation` and `evaluation_validation`.
A fault costs the client its part in the round: the reason goes into the log and into metrics.jsonl.
Reasons quote no text from the reply except names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedrouter.errors import MessageError
from fedrouter.privacy.private_sums import PrivateSums
from fedrouter.protocol.codec import FLOAT_BYTES
from fedrouter.protocol.evaluation_validation import check_evaluation
from fedrouter.protocol.limits import MAX_COUNT, check_count, check_loss
from fedrouter.protocol.messages import ClientReply, ClientRequest, TrainOrder, Update
from fedrouter.protocol.profile_validation import check_profile, largest_number
from fedrouter.protocol.quantization import most_numbers
from fedrouter.protocol.ranks import truncated_shapes
from fedrouter.protocol.sum_validation import largest_sum_reply
from fedrouter.routing.search import SEARCH
from fedrouter.routing.whitening import LARGEST
from fedrouter.types import select_matrices


@dataclass(frozen=True)
class ExpectedArrays:
    """What arrays of a run look like.

    Attributes:
        shapes: names and shapes of a whole adapter's tensors.
        dimension: the number of dimensions of embeddings.
        n_local: `clustering.n_local`, on which the number of a client's centroids depends.
        private_sums: bounds and noise of sums over clients; None: clients add no noise to sums.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dimension: int
    n_local: int | Literal["auto"] | None = None
    private_sums: PrivateSums | None = None

    def of_rank(self, rank: int | None) -> "ExpectedArrays":
        """The same for a client whose adapters have another rank; None: that of the run."""
        return self if rank is None else replace(self, shapes=truncated_shapes(self.shapes, rank))

    def largest_reply(self, request: ClientRequest) -> int:
        """The most bytes that the arrays of a reply take as float32."""
        if request.sum_order is not None:
            return FLOAT_BYTES * largest_sum_reply(request.sum_order)
        numbers = 0
        for order in request.train:
            for shape in select_matrices(self.shapes, order.send).values():
                numbers += most_numbers(shape)
        if request.profile is not None:
            size, rows = min(self.dimension, LARGEST), largest_number(request.profile, self.n_local)
            numbers += (rows + 1) * self.dimension + size * (size + 1) // 2
        return FLOAT_BYTES * numbers


def check_reply(
    request: ClientRequest,
    reply: ClientReply,
    expected: ExpectedArrays,
    counts: Sequence[int] | None = None,
) -> None:
    """Check that a reply answers its request, with arrays of the right shapes and sane numbers.

    Args:
        request: what was asked.
        reply: the answer.
        expected: what the arrays of the run look like.
        counts: the number of samples of each local task, as the client's profile says; None: it
            has no profile.

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
        check_profile(
            request.profile,
            reply.profile,
            client=request.client,
            dimension=expected.dimension,
            n_local=expected.n_local,
        )
    _check_losses(request, reply, counts)
    if request.evaluate is not None and reply.evaluation is not None:
        check_evaluation(request.evaluate, reply.evaluation, counts)
    _check_updates(request, reply, expected, counts)


def _one(part: object) -> str:
    return "none" if part is None else "one"


def _check_losses(request: ClientRequest, reply: ClientReply, counts: Sequence[int] | None) -> None:
    asked = [(order.local_task, {*order.adapters}) for order in request.compare]
    if [(one.local_task, {*one.adapters}) for one in reply.losses] != asked:
        raise MessageError(
            f"losses: expected those of {len(asked)} comparisons, with the adapters asked for"
        )
    for one in reply.losses:
        held = MAX_COUNT if counts is None else counts[one.local_task]
        check_count("losses", "samples", one.samples, min(SEARCH.comparison_samples, held))
        for loss in (one.base, *one.adapters.values()):
            check_loss("losses", loss)


def _check_updates(
    request: ClientRequest,
    reply: ClientReply,
    expected: ExpectedArrays,
    counts: Sequence[int] | None,
) -> None:
    slots = [update.slot for update in reply.updates]
    if slots != list(range(len(request.train))):
        raise MessageError(
            f"updates: expected one for each of {len(request.train)} train orders in order, got "
            f"those of orders {slots[:20]}"
        )
    for order, update in zip(request.train, reply.updates, strict=True):
        _check_update(order, update, expected)
        held = MAX_COUNT
        if counts is not None:
            held = sum(counts) if order.local_task is None else counts[order.local_task]
        check_count(f"update {update.slot}", "samples", update.samples, held)


def _check_update(order: TrainOrder, update: Update, expected: ExpectedArrays) -> None:
    where = f"update {update.slot}"
    if update.adapter not in (order.adapters or (None,)):
        raise MessageError(f"{where}: expected an adapter that its order names")
    shapes = select_matrices(expected.shapes, order.send)
    for name in sorted(update.weights.keys() ^ shapes.keys()):
        which = "is missing" if name in shapes else "was not asked for"
        raise MessageError(f"{where}: tensor {name[:100]!r} {which}")
    for name, array in update.weights.items():
        if array.dtype != np.float32 or array.shape != shapes[name]:
            raise MessageError(
                f"{where}: tensor {name!r}: expected float32 of shape {shapes[name]}, got "
                f"{array.dtype} of shape {array.shape}"
            )
    check_count(where, "tokens", update.tokens)
    check_loss(where, update.loss)
