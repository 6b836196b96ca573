"""Signed sums: what a server that lies about keys, clients and survivors is refused."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fedrouter.deploy.certificates import NodeKey, make_node_key
from fedrouter.errors import MessageError
from fedrouter.secure_aggregation.aggregator import Aggregator
from fedrouter.secure_aggregation.fixed_point import Part, VectorLayout
from fedrouter.secure_aggregation.keys import Secrets
from fedrouter.secure_aggregation.messages import SharesOrder, UnmaskOrder
from fedrouter.secure_aggregation.participant import Participant, as_rows
from fedrouter.secure_aggregation.rules import SumRules
from fedrouter.secure_aggregation.shares import combine_shares
from fedrouter.secure_aggregation.signatures import (
    SigningKeys,
    SumSignatures,
    read_signing_keys,
)

RULES = SumRules(3)
SESSION, OTHER_SESSION = "0" * 32, "1" * 32
LAYOUTS = {"v": VectorLayout(64, (Part(3, 10.0),))}
NUMBER = 5


@cache
def node_keys() -> tuple[NodeKey, ...]:
    return tuple(make_node_key(f"node {c}") for c in range(NUMBER + 1))


def trusted(*clients: int) -> str:
    lines = [f"{c} {node_keys()[c].public.decode()}" for c in clients]
    return "# clients of this federation\n\n" + "".join(lines)


@cache
def signing(client: int) -> SigningKeys:
    return read_signing_keys(node_keys()[client].private, trusted(*range(NUMBER)), client)


class Signed:
    """Clients that sign; the server may change each client's orders."""

    def __init__(self, session: str = SESSION, round: int = 1, run: str = "run") -> None:
        self.clients = {
            c: Participant(c, session, {"v": np.full(3, c + 1.0)}, LAYOUTS) for c in range(NUMBER)
        }
        self.signatures = {c: SumSignatures(signing(c), run, round, session) for c in self.clients}
        self.public = {c: one.secrets.public for c, one in self.clients.items()}
        self.signed = {
            c: self.signatures[c].sign(c, "keys", public) for c, public in self.public.items()
        }
        self.server = Aggregator(session, RULES, self.public, signatures=self.signed)

    def share(self, client: int, order: SharesOrder) -> np.ndarray:
        self.clients[client], reply = self.clients[client].share(
            order, RULES, self.signatures[client]
        )
        return reply.ciphertexts

    def masked(self, orders: Callable[[int, SharesOrder], SharesOrder] = lambda c, o: o) -> None:
        order = self.server.shares_order()
        texts = {c: self.share(c, orders(c, order)) for c in self.clients}
        held = dict.fromkeys(self.clients, ("v",))
        self.server, wanted = self.server.mask_orders(texts, held, LAYOUTS)
        self.vectors = {}
        for c, order_of in wanted.items():
            self.clients[c], vectors = self.clients[c].mask(order_of, RULES)
            self.vectors[c] = vectors.vectors

    def confirmed(self, survivors: Mapping[int, tuple[int, ...]]) -> dict[int, np.ndarray]:
        views = {}
        for c, told in survivors.items():
            order = self.server.confirm_order(told)
            self.clients[c], view = self.clients[c].confirm(order, RULES, self.signatures[c])
            views[c] = view.signature
        return views

    def unmask(self, client: int, order: UnmaskOrder) -> np.ndarray:
        return self.clients[client].unmask(order, RULES, self.signatures[client]).shares


def refused(federation: Signed, order: SharesOrder, said: str) -> None:
    with pytest.raises(MessageError, match=said):
        federation.share(0, order)


def test_a_signed_sum_is_the_sum() -> None:
    federation = Signed()
    federation.masked()
    assert federation.server.signed
    everyone = tuple(range(NUMBER))
    views = federation.confirmed(dict.fromkeys(everyone, everyone))
    order = federation.server.unmask_order(everyone, {c: views[c] for c in (0, 2, 3)})
    revealed = {c: federation.unmask(c, order) for c in everyone}
    sums = federation.server.opened(federation.vectors, revealed, LAYOUTS)
    np.testing.assert_allclose(sums["v"], 15, atol=1e-6)


def test_a_replaced_key_is_refused() -> None:
    federation = Signed()
    order = federation.server.shares_order()
    keys = order.keys.copy()
    keys[2] = as_rows([Secrets.draw().public])[0]  # of which the server knows the private ones
    said = "expected the keys of client 2 signed by its trusted key, for this run, round"
    refused(federation, replace(order, keys=keys), said)
    swapped = order.signatures[[0, 1, 3, 2, 4]]
    refused(federation, replace(order, signatures=swapped), "keys of client 2 signed")


@pytest.mark.parametrize(
    "other",
    [{"session": OTHER_SESSION}, {"round": 2}, {"run": "another"}],
    ids=["session", "round", "run"],
)
def test_keys_of_another_sum_are_refused(other: dict[str, str]) -> None:
    """A server that learned client 2's key in an earlier sum, and shows it again."""
    federation, old = Signed(), Signed(**other)
    order = federation.server.shares_order()
    keys, signatures = order.keys.copy(), order.signatures.copy()
    keys[2], signatures[2] = as_rows([old.public[2]])[0], as_rows([old.signed[2]])[0]
    refused(federation, replace(order, keys=keys, signatures=signatures), "keys of client 2 signed")


def test_invented_clients_are_refused() -> None:
    federation = Signed()
    secrets = Secrets.draw()
    own = read_signing_keys(node_keys()[NUMBER].private, trusted(*range(NUMBER + 1)), NUMBER)
    signature = SumSignatures(own, "run", 1, SESSION).sign(NUMBER, "keys", secrets.public)
    server = replace(
        federation.server,
        roster={**federation.public, NUMBER: secrets.public},
        signatures={**federation.signed, NUMBER: signature},
    )
    refused(federation, server.shares_order(), "client 5 has no key among the trusted keys")
    fewer = {c: s for c, s in federation.signed.items() if c != 3}
    server = replace(federation.server, signatures=fewer)
    assert not server.signed
    refused(federation, server.shares_order(), "client 3 has not signed its keys; give it a key")
    server = replace(federation.server, signatures={})
    refused(federation, server.shares_order(), "expected a signature of each client's keys")


def test_a_client_that_some_are_not_told_of_is_noticed() -> None:
    """Client 4 is dropped from the list of one half; nobody's vectors are opened."""
    federation = Signed()
    public = {c: key for c, key in federation.public.items() if c != 4}
    signed = {c: one for c, one in federation.signed.items() if c != 4}
    fewer = Aggregator(SESSION, RULES, public, signatures=signed).shares_order()
    with pytest.raises(MessageError, match="the client's own keys"):
        federation.share(4, fewer)
    texts = {c: federation.share(c, fewer) for c in (0, 1)}
    whole = federation.server.shares_order()
    texts |= {c: federation.share(c, whole) for c in (2, 3)}
    views = {}
    for c in range(4):
        received = {s: bytes(t[min(c, t.shape[0] - 1)]) for s, t in texts.items()}
        client = replace(federation.clients[c], received=received)
        order = replace(federation.server, senders=(0, 1, 2, 3)).confirm_order((0, 1, 2, 3))
        federation.clients[c], view = client.confirm(order, RULES, federation.signatures[c])
        views[c] = view.signature
    order = federation.server.unmask_order((0, 1, 2, 3), views)
    for c in range(4):
        with pytest.raises(MessageError, match="expected the view of client"):
            federation.unmask(c, order)


# Each list has as many clients as a sum needs; 2, 3 and 4 are missing in three lists each.
TOLD = {0: (0, 1, 4), 1: (0, 1, 4), 2: (0, 1, 3), 3: (0, 1, 2), 4: (0, 1, 2, 3)}


def test_without_signatures_different_survivors_open_the_sum_of_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation = Signed()
    federation.masked()
    shares: dict[int, dict[int, bytes]] = {sender: {} for sender in range(NUMBER)}
    for c, survivors in TOLD.items():
        order = federation.server.unmask_order(survivors)
        for sender, row in enumerate(federation.clients[c].unmask(order, RULES).shares):
            if (sender in (0, 1)) == (sender in survivors):
                shares[sender][c] = bytes(row)
    secrets = {s: combine_shares(dict(list(own.items())[:3])) for s, own in shares.items()}
    monkeypatch.setattr(Aggregator, "_secrets", lambda *_: secrets)
    vectors = {c: federation.vectors[c] for c in (0, 1)}
    sums = federation.server.opened(vectors, dict.fromkeys(range(3)), LAYOUTS)
    np.testing.assert_allclose(sums["v"], 1 + 2, atol=1e-6)


def test_with_signatures_different_survivors_open_nothing() -> None:
    federation = Signed()
    federation.masked()
    views = federation.confirmed(TOLD)
    for c, survivors in TOLD.items():
        mixed = federation.server.unmask_order(survivors, {s: views[s] for s in survivors})
        with pytest.raises(MessageError, match="expected the view of client"):
            federation.unmask(c, mixed)
        same = {s: views[s] for s in survivors if TOLD[s] == survivors}
        signatures = np.concatenate([*same.values(), np.zeros((0, 96), np.uint8)])
        lonely = replace(mixed, signers=tuple(same), signatures=signatures)
        with pytest.raises(MessageError, match=r"3 clients or more that signed the list .*, got"):
            federation.unmask(c, lonely)


def test_a_client_signs_one_list_and_opens_no_other() -> None:
    federation = Signed()
    federation.masked()
    everyone = tuple(range(NUMBER))
    views = federation.confirmed(dict.fromkeys(everyone, everyone))
    with pytest.raises(MessageError, match="one order to sign"):
        federation.confirmed({0: (0, 1, 2)})
    right = federation.server.unmask_order(everyone, views)
    with pytest.raises(MessageError, match="the survivors whose list the client signed"):
        federation.unmask(0, replace(right, survivors=(0, 1, 2, 3)))
    twice = replace(right, signers=(0, 1, 2, 3, 3))
    with pytest.raises(MessageError, match="different survivors"):
        federation.unmask(0, twice)
    with pytest.raises(MessageError, match="a signature of each client's view"):
        federation.unmask(0, replace(right, signatures=None))
    with pytest.raises(MessageError, match="3 clients or more that signed"):
        federation.server.unmask_order(everyone, {0: views[0]})
    without = Participant(0, SESSION, {}, {})
    with pytest.raises(MessageError, match="of a client that has a key"):
        without.confirm(federation.server.confirm_order(everyone), RULES, None)


def test_keys_that_cannot_be_used_are_named() -> None:
    keys = node_keys()
    for private, text, said in (
        (b"none", trusted(0), "the private key is none without a password"),
        (keys[1].private, trusted(0), "the trusted key of client 0 is not that of its private key"),
        (keys[0].private, trusted(1), "have none of client 0"),
        (keys[0].private, f"{trusted(0)}1 {keys[0].public.decode()}", "line 4 .* again"),
        (keys[0].private, "zero x", "line 1 of the trusted keys begins with no client's id"),
        (keys[0].private, "0 ssh-rsa AAAA", "line 1 of the trusted keys has no public key"),
    ):
        with pytest.raises(ValueError, match=said):
            read_signing_keys(private, text, 0)
