"""Noise in shares: its scale on the opened sum, whoever vanishes, and what it leaves of values."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from fedrouter.errors import MessageError
from fedrouter.secure_aggregation.aggregator import Aggregator
from fedrouter.secure_aggregation.fixed_point import Part, VectorLayout
from fedrouter.secure_aggregation.noise_shares import noise_share
from fedrouter.secure_aggregation.participant import Participant
from fedrouter.secure_aggregation.rules import SumRules

SESSION, SIZE, SIGMA = "0" * 32, 20_000, 2.5
LAYOUT = VectorLayout(32, (Part(SIZE, 1.0 + 8.3 * SIGMA, SIGMA),))


def shares(clients: int, least: int, layout: VectorLayout = LAYOUT) -> np.ndarray:
    """The sum of the shares of some of 10 clients, as the server decodes it."""
    own = [noise_share(layout, 10, least, f"secret {c}", "round", c) for c in range(clients)]
    return layout.decode(np.sum(own, axis=0, dtype=own[0].dtype), 10)


@pytest.mark.parametrize(("clients", "least"), [(6, 6), (10, 6), (9, 9)])
def test_the_sum_has_at_least_the_noise_of_the_budget(clients: int, least: int) -> None:
    found = shares(clients, least)
    expected = SIGMA * (clients / least) ** 0.5
    assert found.std() == pytest.approx(expected, rel=0.02)
    assert kstest(found / expected, "norm").pvalue > 1e-3


def test_values_without_noise_get_none_and_others_have_their_own() -> None:
    layout = VectorLayout(64, (Part(1, 100.0), Part(SIZE, 1e5, SIGMA)))
    found = shares(6, 6, layout)
    assert found[0] == 0
    assert found[1:].std() == pytest.approx(SIGMA, rel=0.02)
    first, again = (noise_share(layout, 10, 6, "s", "round", c) for c in (0, 0))
    np.testing.assert_array_equal(first, again)
    other = noise_share(layout, 10, 6, "s", "round", 1)
    assert np.mean(first == other) < 0.01


def test_noise_below_the_grid_is_refused() -> None:
    with pytest.raises(MessageError, match=r"lower privacy\.epsilon"):
        noise_share(VectorLayout(32, (Part(3, 1.0, 1e-9),)), 10, 6, "secret", 0)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.sampled_from([32, 64]))
def test_rounding_does_not_lengthen_a_vector(values: list[float], bits: int) -> None:
    layout = VectorLayout(bits, (Part(len(values), 1.0, 1.0),))
    vector = np.array(values)
    found = layout.decode(layout.encode(vector, 3), 3)
    assert np.linalg.norm(found) <= np.linalg.norm(vector) * (1 + 1e-15)
    assert np.abs(found - vector).max() <= 1.001 / layout.scales(3)[0] + 1e-15


def test_the_least_number_of_a_vector_is_the_part_that_the_threshold_is_of_all() -> None:
    rules = SumRules(3, threshold=6)
    assert [rules.noise_least(g, 10) for g in (2, 3, 5, 10)] == [2, 2, 3, 6]
    assert [rules.vector_least(g, 10, True) for g in (2, 3, 5, 10)] == [3, 3, 3, 6]
    assert [rules.vector_least(g, 10, False) for g in (2, 3, 5, 10)] == [3, 3, 3, 3]
    assert SumRules(3).noise_least(200, 200) == 101


class Noisy:
    """Six clients with a vector of zeros, whose sum has noise; a threshold of four."""

    def __init__(self, multiplier: float) -> None:
        self.rules, names = SumRules(2, threshold=4), ("v",)
        self.clients = {
            c: Participant(
                c,
                SESSION,
                {"v": np.zeros(SIZE)},
                {"v": LAYOUT},
                question="q",
                multiplier=multiplier,
            )
            for c in range(6)
        }
        public = {c: one.secrets.public for c, one in self.clients.items()}
        server = Aggregator(SESSION, self.rules, public, noisy=multiplier > 0)
        texts = {}
        for c in self.clients:
            self.clients[c], reply = self.clients[c].share(server.shares_order(), self.rules)
            texts[c] = reply.ciphertexts
        held = dict.fromkeys(self.clients, names)
        self.server, orders = server.mask_orders(texts, held, {"v": LAYOUT})
        self.vectors = {}
        for c, order in orders.items():
            self.clients[c], vectors = self.clients[c].mask(order, self.rules, f"secret {c}")
            self.vectors[c] = vectors.vectors

    def opened(self, survivors: tuple[int, ...]) -> np.ndarray:
        order = self.server.unmask_order(survivors)
        shares = {c: self.clients[c].unmask(order, self.rules).shares for c in survivors}
        vectors = {c: self.vectors[c] for c in survivors}
        return self.server.opened(vectors, shares, {"v": LAYOUT})["v"]


def test_an_opened_sum_has_the_noise_if_clients_vanish_and_none_without_a_budget() -> None:
    noisy = Noisy(1.0)
    assert noisy.opened((0, 2, 3, 5)).std() == pytest.approx(SIGMA, rel=0.03)
    everyone = Noisy(1.0).opened(tuple(range(6)))
    assert everyone.std() == pytest.approx(SIGMA * 1.5**0.5, rel=0.03)
    assert not Noisy(0.0).opened((0, 1, 2, 3)).any()
    with pytest.raises(MessageError, match="4 clients or more"):
        Noisy(1.0).opened((0, 1, 2))


def test_noise_depends_on_the_question_and_on_the_clients() -> None:
    first, again = Noisy(1.0).clients[0], Noisy(1.0).clients[0]
    assert first.release == again.release
    for other in ({"question": "other"}, {"groups": ()}, {"roster": {0: b""}}):
        assert replace(first, **other).release != first.release
    assert first.answer == again.answer
    assert first.answer != replace(first, values={"v": np.ones(SIZE)}).answer
