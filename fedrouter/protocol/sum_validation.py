"""A client's reply in one exchange of a sum, checked against its request."""

from collections.abc import Mapping

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.profile_orders import AssignToNearest
from fedrouter.secure_aggregation.fixed_point import VectorLayout, unsigned
from fedrouter.secure_aggregation.keys import KEY_BYTES, NONCE_BYTES, PUBLIC_BYTES
from fedrouter.secure_aggregation.messages import (
    ConfirmOrder,
    EncryptedShares,
    KeysOrder,
    MaskedVectors,
    MaskOrder,
    PublicKeys,
    RevealedShares,
    SharesOrder,
    SignedView,
    SumOrder,
    SumReply,
    UnmaskOrder,
)
from fedrouter.secure_aggregation.signatures import SIGNATURE_BYTES
from fedrouter.types import ByteArray

TAG_BYTES = 16
CIPHERTEXT_BYTES = NONCE_BYTES + 2 * KEY_BYTES + TAG_BYTES  # two shares, encrypted


def largest_sum_reply(order: SumOrder) -> int:
    """The most numbers in the arrays of a reply to an order."""
    if isinstance(order, KeysOrder):
        return PUBLIC_BYTES + SIGNATURE_BYTES
    if isinstance(order, SharesOrder):
        return CIPHERTEXT_BYTES * len(order.clients)
    if isinstance(order, MaskOrder):
        return sum(group.size for group in order.groups)
    if isinstance(order, ConfirmOrder):
        return SIGNATURE_BYTES
    return KEY_BYTES * order.senders


def check_sum_reply(
    request: ClientRequest,
    reply: ClientReply,
    layouts: Mapping[str, VectorLayout],
) -> None:
    """Check the reply to a request with a `sum_order`.

    Args:
        request: what was asked.
        reply: the answer.
        layouts: the vectors of the sum.

    Raises:
        MessageError: one line that names the first fault.
    """
    client, round = request.client, request.round
    if (reply.client, reply.round) != (client, round):
        raise MessageError(
            f"reply: expected client {client} and round {round}, got client {reply.client} and "
            f"round {reply.round}"
        )
    order, given = request.sum_order, reply.sum_reply
    if reply.changed and isinstance(order, KeysOrder):
        if reply != ClientReply(client, round, changed=True):
            raise MessageError("reply: expected nothing else if the data changed, got more")
        return
    if given is None or order is None or given.kind != order.kind:
        raise MessageError("sum: expected the reply to the order, got another or none")
    bare = reply.profile is None and reply.evaluation is None and not reply.changed
    if not bare or reply.updates or reply.losses:
        raise MessageError("sum: expected nothing beside masked values, got more")
    _check_part(request, order, given, layouts)


def _check_part(
    request: ClientRequest,
    order: SumOrder,
    given: SumReply,
    layouts: Mapping[str, VectorLayout],
) -> None:
    if isinstance(given, PublicKeys):
        _check_shape(given.keys, (1, PUBLIC_BYTES))
        if given.signature is not None:
            _check_shape(given.signature, (1, SIGNATURE_BYTES))
        if not {*given.groups} <= layouts.keys() or len({*given.groups}) < len(given.groups):
            raise MessageError("sum: expected different vectors, of those asked for")
        _check_tasks(request, given)
    elif isinstance(given, EncryptedShares) and isinstance(order, SharesOrder):
        _check_shape(given.ciphertexts, (len(order.clients), CIPHERTEXT_BYTES))
    elif isinstance(given, SignedView):
        _check_shape(given.signature, (1, SIGNATURE_BYTES))
    elif isinstance(given, RevealedShares) and isinstance(order, UnmaskOrder):
        _check_shape(given.shares, (order.senders, KEY_BYTES))
    elif isinstance(given, MaskedVectors) and isinstance(order, MaskOrder):
        own = [layouts[g.name] for g in order.groups if request.client in g.clients]
        forms = [(vector.dtype, vector.shape) for vector in given.vectors]
        if forms != [(unsigned(layout.bits), (layout.size,)) for layout in own]:
            raise MessageError(f"sum: expected {len(own)} masked vectors of the sizes asked for")


def _check_shape(array: ByteArray, shape: tuple[int, int]) -> None:
    if array.shape != shape:
        raise MessageError(f"sum: expected bytes of shape {shape}, got {array.shape}")


def _check_tasks(request: ClientRequest, given: PublicKeys) -> None:
    """The tasks that a client has, one for each local task."""
    order = request.profile
    number = len(order.geometry.tasks) if isinstance(order, AssignToNearest) else 0
    possible = all(0 <= task < number for task in given.tasks)
    if not possible or len({*given.tasks}) < len(given.tasks):
        raise MessageError(f"sum: expected different ones of {number} global tasks")
