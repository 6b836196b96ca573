"""Replies in the exchanges of a sum that do not answer their requests."""

from dataclasses import replace

import numpy as np
import pytest

from fedrouter.errors import MessageError
from fedrouter.protocol.codec import pack_reply, unpack_reply
from fedrouter.protocol.messages import ClientReply, ClientRequest, Update
from fedrouter.protocol.profile_orders import AssignToNearest
from fedrouter.protocol.sum_validation import CIPHERTEXT_BYTES, check_sum_reply
from fedrouter.routing.types import TaskGeometry
from fedrouter.secure_aggregation.fixed_point import Part, VectorLayout
from fedrouter.secure_aggregation.messages import (
    EncryptedShares,
    Group,
    KeysOrder,
    MaskedVectors,
    MaskOrder,
    PublicKeys,
    RevealedShares,
    SharesOrder,
    SumOrder,
    SumReply,
    UnmaskOrder,
)

SESSION = "a" * 32
LAYOUTS = {
    "small": VectorLayout(32, (Part(3, 1.0),)),
    "large": VectorLayout(64, (Part(2, 1.0),)),
}
GEOMETRY = TaskGeometry(("a", "b"), np.zeros((2, 4), np.float32), 0.0, 0.0, 0.0)


def rows(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


ORDERS: dict[str, SumOrder] = {
    "keys": KeysOrder(SESSION),
    "shares": SharesOrder(SESSION, (0, 1, 2), rows(3, 64)),
    "mask": MaskOrder(
        SESSION,
        (0, 1, 2),
        rows(3, CIPHERTEXT_BYTES),
        (Group("small", (0, 1), 3), Group("large", (0, 2), 2)),
    ),
    "unmask": UnmaskOrder(SESSION, (0, 1), 3),
}
SMALL, LARGE = np.zeros(3, np.uint32), np.zeros(2, np.uint64)
GOOD: dict[str, SumReply] = {
    "keys": PublicKeys(rows(1, 64), ("small",), (1, 0)),
    "shares": EncryptedShares(rows(3, CIPHERTEXT_BYTES)),
    "mask": MaskedVectors((SMALL, LARGE)),
    "unmask": RevealedShares(rows(3, 32)),
}


def request(kind: str) -> ClientRequest:
    profile = AssignToNearest(GEOMETRY) if kind == "keys" else None
    return ClientRequest(0, 1, profile=profile, sum_order=ORDERS[kind])


@pytest.mark.parametrize("kind", ORDERS)
def test_good_replies_pass_as_bytes(kind: str) -> None:
    reply = ClientReply(0, 1, sum_reply=GOOD[kind])
    check_sum_reply(request(kind), unpack_reply(*pack_reply(reply, "float16")), LAYOUTS)


BAD: list[tuple[str, SumReply, str]] = [
    ("keys", PublicKeys(rows(1, 63), ()), "shape"),
    ("keys", PublicKeys(rows(2, 64), ()), "shape"),
    ("keys", PublicKeys(rows(1, 64), ("other",)), "different vectors, of those asked for"),
    ("keys", PublicKeys(rows(1, 64), ("small", "small")), "different vectors"),
    ("keys", PublicKeys(rows(1, 64), (), (2,)), "different ones of 2 global tasks"),
    ("keys", PublicKeys(rows(1, 64), (), (1, 1)), "different ones of 2 global tasks"),
    ("keys", GOOD["shares"], "another or none"),
    ("shares", EncryptedShares(rows(2, CIPHERTEXT_BYTES)), "shape"),
    ("shares", EncryptedShares(rows(3, 5)), "shape"),
    ("mask", MaskedVectors((SMALL,)), "2 masked vectors of the sizes"),
    ("mask", MaskedVectors((LARGE, SMALL)), "2 masked vectors of the sizes"),
    ("mask", MaskedVectors((SMALL[:2], LARGE)), "2 masked vectors of the sizes"),
    ("mask", MaskedVectors((SMALL.astype(np.uint64), LARGE)), "2 masked vectors of the sizes"),
    ("unmask", RevealedShares(rows(2, 32)), "shape"),
    ("unmask", GOOD["keys"], "another or none"),
]


@pytest.mark.parametrize(("kind", "part", "told"), BAD)
def test_bad_replies_are_refused(kind: str, part: SumReply, told: str) -> None:
    with pytest.raises(MessageError, match=told):
        check_sum_reply(request(kind), ClientReply(0, 1, sum_reply=part), LAYOUTS)


def test_nothing_else_may_be_in_a_reply() -> None:
    good = ClientReply(0, 1, sum_reply=GOOD["unmask"])
    update = Update(0, "a", {}, 1, 1.0, 1)
    for bad in (
        replace(good, client=1),
        replace(good, round=2),
        replace(good, updates=(update,)),
        replace(good, changed=True),
        replace(good, sum_reply=None),
    ):
        with pytest.raises(MessageError):
            check_sum_reply(request("unmask"), bad, LAYOUTS)


@pytest.mark.parametrize("array", [np.zeros((1, 64)), np.zeros(64, np.uint8)])
def test_arrays_of_other_kinds_are_refused_when_they_arrive(array: np.ndarray) -> None:
    header, arrays = pack_reply(ClientReply(0, 1, sum_reply=GOOD["keys"]), "float32")
    with pytest.raises(MessageError, match="matrix of bytes"):
        unpack_reply(header, dict.fromkeys(arrays, array))


def test_masked_vectors_are_unsigned_integers() -> None:
    header, arrays = pack_reply(ClientReply(0, 1, sum_reply=MaskedVectors((SMALL,))), "float32")
    with pytest.raises(MessageError, match="uint32 or uint64"):
        unpack_reply(header, dict.fromkeys(arrays, np.zeros(3, np.float32)))
