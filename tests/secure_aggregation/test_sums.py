"""Sums over clients: right, whoever vanishes when, and nothing but the sum is seen."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedrouter.errors import MessageError
from fedrouter.secure_aggregation.aggregator import Aggregator
from fedrouter.secure_aggregation.fixed_point import Part, VectorLayout
from fedrouter.secure_aggregation.keys import agree, decrypt, encrypt, public_key
from fedrouter.secure_aggregation.masks import common_mask, mask_secret
from fedrouter.secure_aggregation.messages import Group, MaskOrder, UnmaskOrder
from fedrouter.secure_aggregation.participant import Participant
from fedrouter.secure_aggregation.rules import SumRules
from fedrouter.secure_aggregation.shares import combine_shares, split_secret

SESSION = "0" * 32
FINE = VectorLayout(64, (Part(2, 10.0), Part(1, 1e6)))
COARSE = VectorLayout(32, (Part(4, 100.0),))
LAYOUTS = {"all": FINE, "task": COARSE}


class Federation:
    """Clients 0 to n - 1 and a server; clients vanish before the exchanges that are given."""

    def __init__(self, number: int, rules: SumRules, holders: Collection[int] = ()) -> None:
        self.rules = rules
        draws = np.random.default_rng(0)
        self.clients: dict[int, Participant] = {}
        for c in range(number):
            values = {"all": np.append(draws.normal(0, 1, 2), 1e5 * draws.normal())}
            if c in holders:
                values["task"] = draws.normal(0, 10, 4)
            self.clients[c] = Participant(c, SESSION, values, LAYOUTS)
        self.values = {c: client.values for c, client in self.clients.items()}

    def total(self, name: str, over: Sequence[int]) -> np.ndarray:
        return np.sum([self.values[c][name] for c in over if name in self.values[c]], axis=0)

    def sums(
        self, shares: Sequence[int] = (), mask: Sequence[int] = (), unmask: Sequence[int] = ()
    ) -> dict[str, np.ndarray]:
        roster = {c: client.secrets.public for c, client in self.clients.items()}
        server = Aggregator(SESSION, self.rules, roster)
        order, ciphertexts = server.shares_order(), {}
        for c in [c for c in self.clients if c not in shares]:
            self.clients[c], reply = self.clients[c].share(order, self.rules)
            ciphertexts[c] = reply.ciphertexts
        held = {c: list(client.values) for c, client in self.clients.items()}
        server, orders = server.mask_orders(ciphertexts, held, LAYOUTS)
        self.masked = {}
        for c in [c for c in orders if c not in mask]:
            self.clients[c], vectors = self.clients[c].mask(orders[c], self.rules)
            self.masked[c] = vectors.vectors
        last = server.unmask_order(list(self.masked))
        self.revealed = {
            c: self.clients[c].unmask(last, self.rules).shares
            for c in self.masked
            if c not in unmask
        }
        self.server = server
        return server.opened(self.masked, self.revealed, LAYOUTS)


def test_a_sum_is_the_sum() -> None:
    federation = Federation(5, SumRules(3), holders=(0, 1, 3))
    sums = federation.sums()
    assert np.allclose(sums["all"], federation.total("all", range(5)), atol=1e-6)
    assert np.allclose(sums["task"], federation.total("task", range(5)), atol=3 * 150 / 2**31)


@pytest.mark.parametrize("stage", ["shares", "mask", "unmask"])
@pytest.mark.parametrize("lost", [(0,), (4,), (1, 4)])
def test_clients_vanish_before_any_exchange(stage: str, lost: tuple[int, ...]) -> None:
    federation = Federation(6, SumRules(3, threshold=4), holders=range(6))
    sums = federation.sums(**{stage: lost})
    over = [c for c in range(6) if stage == "unmask" or c not in lost]
    assert np.allclose(sums["all"], federation.total("all", over), atol=1e-6)
    assert np.allclose(sums["task"], federation.total("task", over), atol=1e-5)


def test_clients_vanish_before_all_exchanges_at_once() -> None:
    federation = Federation(8, SumRules(3), holders=(0, 2, 4, 6, 7))
    sums = federation.sums(shares=(1,), mask=(4,), unmask=(0,))
    assert np.allclose(sums["all"], federation.total("all", (0, 2, 3, 5, 6, 7)), atol=1e-6)
    assert np.allclose(sums["task"], federation.total("task", (0, 2, 6, 7)), atol=1e-5)


@pytest.mark.parametrize("stage", ["shares", "mask", "unmask"])
def test_below_the_threshold_a_sum_is_refused(stage: str) -> None:
    with pytest.raises(MessageError, match=r"expected 4 clients or more .*, got 3"):
        Federation(6, SumRules(2, threshold=4)).sums(**{stage: (0, 1, 2)})


def test_a_vector_of_too_few_clients_is_not_asked_for() -> None:
    federation = Federation(5, SumRules(3), holders=(0, 1))
    assert set(federation.sums()) == {"all"}
    assert all(len(vectors) == 1 for vectors in federation.masked.values())


def test_a_vector_that_lost_its_clients_is_not_opened() -> None:
    federation = Federation(6, SumRules(3), holders=(0, 1, 2))
    with pytest.raises(MessageError, match="3 clients or more whose vector task arrived, got 2"):
        federation.sums(mask=(0,))


def test_clients_refuse_what_would_reveal_them() -> None:
    rules, federation = SumRules(3), Federation(5, SumRules(3), holders=range(5))
    federation.sums()
    client = federation.clients[0]
    with pytest.raises(MessageError, match="each session has one sum"):
        client.share(federation.server.shares_order(), rules)
    received = np.stack([np.frombuffer(one, np.uint8) for one in client.received.values()])
    again = MaskOrder(SESSION, tuple(client.received), received, client.groups)
    with pytest.raises(MessageError, match="one order for masked vectors"):
        client.mask(again, rules)
    with pytest.raises(MessageError, match="3 clients or more whose vectors arrived, got 2"):
        client.unmask(UnmaskOrder(SESSION, (0, 1), 5), rules)
    fresh = Federation(5, rules, holders=range(5)).clients
    order = Aggregator(
        SESSION, rules, {c: one.secrets.public for c, one in fresh.items()}
    ).shares_order()
    shared, _ = fresh[0].share(order, rules)
    alone = MaskOrder(SESSION, tuple(range(5)), received, (Group("task", (0, 1), 4),))
    with pytest.raises(MessageError, match="3 clients or more with vector task, got 2"):
        shared.mask(alone, rules)
    everyone = tuple(range(5))
    twice = Group("task", everyone, 4), Group("task", everyone[1:], 4)
    with pytest.raises(MessageError, match="each vector once"):
        shared.mask(MaskOrder(SESSION, everyone, received, twice), rules)
    few = Aggregator(SESSION, SumRules(2), {c: fresh[c].secrets.public for c in (0, 1)})
    with pytest.raises(MessageError, match="keys of 3 clients or more, got 2"):
        fresh[0].share(few.shares_order(), rules)
    strange = Aggregator(SESSION, rules, {c: fresh[c].secrets.public for c in (1, 2, 3)})
    with pytest.raises(MessageError, match="the client's own keys"):
        fresh[0].share(strange.shares_order(), rules)


def test_a_changed_share_is_noticed() -> None:
    federation = Federation(4, SumRules(2))
    federation.sums()
    client = federation.clients[1]
    changed = {c: bytes([text[0] ^ 1]) + text[1:] for c, text in client.received.items()}
    client = replace(client, received=changed)
    with pytest.raises(MessageError, match="changed on its way"):
        client.unmask(UnmaskOrder(SESSION, (0, 1, 2, 3), 4), SumRules(2))


def test_fewer_shares_than_the_threshold_do_not_open_anything() -> None:
    """The server takes the shares that it has for enough: what it gets is not the sum."""
    federation = Federation(6, SumRules(2, threshold=4))
    sums = federation.sums()
    few = {c: federation.revealed[c] for c in (0, 1, 2)}
    server = replace(federation.server, rules=SumRules(2, threshold=3))
    wrong = server.opened(federation.masked, few, LAYOUTS)
    assert not np.isclose(wrong["all"], sums["all"], rtol=1e-3).any()


def test_an_honest_clients_vector_is_uniform_for_the_server_and_colluders() -> None:
    """With T - 1 colluders who tell the server all they know, what is left of a masked vector of
    zeros, or of extreme values, is uniform in each of its bytes."""
    rules, size = SumRules(2, threshold=3), 50_000
    layout = VectorLayout(32, (Part(size, 1.0),))
    for value in (0.0, 1.0):
        clients = {
            c: Participant(c, SESSION, {"v": np.full(size, value)}, {"v": layout}) for c in range(5)
        }
        roster = {c: one.secrets.public for c, one in clients.items()}
        server = Aggregator(SESSION, rules, roster)
        ciphertexts = {}
        for c, one in clients.items():
            clients[c], reply = one.share(server.shares_order(), rules)
            ciphertexts[c] = reply.ciphertexts
        _, orders = server.mask_orders(ciphertexts, dict.fromkeys(clients, ("v",)), {"v": layout})
        _, masked = clients[2].mask(orders[2], rules)
        seen = masked.vectors[0]
        for colluder in (0, 1):  # they take off the masks that they have in common with client 2
            key = clients[colluder].secrets.mask
            seen = seen + common_mask(mask_secret(key, roster[2], SESSION), "v", layout)
        for byte in range(4):
            counts = np.bincount(seen.view(np.uint8)[byte::4], minlength=256)
            assert chisquare(counts).pvalue > 1e-4


@settings(max_examples=30)
@given(
    values=st.lists(st.floats(-50, 50), min_size=2, max_size=8),
    bits=st.sampled_from([32, 64]),
)
def test_fixed_point_is_as_exact_as_it_says(values: list[float], bits: int) -> None:
    layout, number = VectorLayout(bits, (Part(1, 40.0),)), len(values)
    encoded = [layout.encode(np.array([value]), number) for value in values]
    total = layout.decode(np.sum(encoded, axis=0, dtype=encoded[0].dtype), number)
    exact = sum(np.clip(values, -40, 40))
    error = number / (2 * layout.scales(number)[0])
    assert abs(total[0] - exact) <= error * 1.001 + 1e-12 * abs(exact)


def test_a_sum_of_the_largest_values_does_not_overflow() -> None:
    for bits in (32, 64):
        layout = VectorLayout(bits, (Part(2, 3.0),))
        one = layout.encode(np.array([9.0, -9.0]), 1000)
        total = np.sum([one] * 1000, axis=0, dtype=one.dtype)
        assert np.allclose(layout.decode(total, 1000), [3000, -3000], rtol=1e-5)


def test_shares_restore_a_secret() -> None:
    secret = bytes(range(32))
    shares = split_secret(secret, 5, 3)
    assert combine_shares({i: shares[i] for i in (4, 0, 2)}) == secret
    assert combine_shares({i: shares[i] for i in (4, 0)}) != secret


def test_two_clients_agree_and_others_do_not() -> None:
    a, b = bytes([1] * 32), bytes([2] * 32)
    key = agree(a, public_key(b), "mask", SESSION)
    assert key == agree(b, public_key(a), "mask", SESSION)
    assert key != agree(a, public_key(b), "shares", SESSION)
    assert decrypt(key, encrypt(key, b"text", "0 1"), "0 1") == b"text"
    with pytest.raises(ValueError, match="changed"):
        decrypt(key, encrypt(key, b"text", "0 1"), "1 0")
