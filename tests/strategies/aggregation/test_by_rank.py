"""Means of adapters of different ranks, with numbers that can be checked by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedrouter.config import ResolvedAggregationConfig
from fedrouter.protocol.messages import ClientReply, Update
from fedrouter.protocol.ranks import pad, rank_of, truncate
from fedrouter.strategies.aggregation import aggregate, ordered
from fedrouter.types import AdapterWeights

A, B = "m.lora_A.weight", "m.lora_B.weight"


def constant(rank: int, value: float) -> AdapterWeights:
    """An adapter for 3 inputs and 2 outputs, all of whose numbers are `value`."""
    return {A: np.full((rank, 3), value, np.float32), B: np.full((2, rank), value, np.float32)}


def random(rank: int, seed: int) -> AdapterWeights:
    draws = np.random.default_rng(seed)
    return {
        A: draws.normal(size=(rank, 3)).astype(np.float32),
        B: draws.normal(size=(2, rank)).astype(np.float32),
    }


def product(weights: AdapterWeights) -> NDArray[np.float64]:
    return weights[B].astype(np.float64) @ weights[A]


def mean(
    start: AdapterWeights, sent: Sequence[tuple[AdapterWeights, int]], **settings: object
) -> AdapterWeights:
    replies = [
        ClientReply(i, 1, updates=(Update(0, "t", weights, samples, loss=1.0, tokens=1),))
        for i, (weights, samples) in enumerate(sent)
    ]
    given = ResolvedAggregationConfig(**{"robust": "none", **settings})
    return aggregate(given, {"t": start}, replies, excluded=(), by_task=False).adapters["t"]


def test_a_component_is_averaged_over_the_clients_that_have_it() -> None:
    """Component 0: (1 * 10 + 5 * 30) / 40 = 4; component 1: 5, as only the second client has it;
    component 2: nobody's, kept."""
    result = mean(constant(3, 7), [(constant(1, 1), 10), (constant(2, 5), 30)])
    assert result[A].tolist() == [[4] * 3, [5] * 3, [7] * 3]
    assert result[B].tolist() == [[4, 5, 7]] * 2


def test_zeros_for_missing_components_shrink_them() -> None:
    """Component 1: (0 * 10 + 5 * 30) / 40."""
    sent = [(constant(1, 1), 10), (constant(2, 5), 30)]
    result = mean(constant(2, 7), sent, ranks="zero_padding")
    assert result[A].tolist() == [[4] * 3, [3.75] * 3]


@pytest.mark.parametrize("rule", ["clip", "median", "trimmed_mean", "geometric_median", "krum"])
def test_robust_rules_work_on_the_clients_that_have_a_component(rule: str) -> None:
    """Five clients move component 0 by 1, and four of them component 1 by 1."""
    sent = [(constant(rank, 8), 10) for rank in (1, 2, 2, 2, 2)]
    result = mean(constant(3, 7), sent, robust=rule)
    assert result[A] == pytest.approx(np.array([[8] * 3, [8] * 3, [7] * 3]))


def test_a_robust_median_of_each_component() -> None:
    """Component 0 moves by 1, 1, 1, 1, 1, 3 and component 1 by 1, 1, 1, 1, 3: medians of 1."""
    sent = [(constant(1, 8), 10), *[(constant(2, 8), 10)] * 4, (constant(2, 10), 10)]
    assert mean(constant(2, 7), sent, robust="median")[A] == pytest.approx(8)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 50)), min_size=1, max_size=4))
def test_the_mean_of_products_is_exact_if_the_rank_suffices(
    clients: list[tuple[int, int]],
) -> None:
    """The product of a 2 x 3 matrix has at most rank 2, so that rank 4 loses nothing."""
    sent = [(random(rank, seed), n) for seed, (rank, n) in enumerate(clients)]
    result = mean(random(4, 99), sent, ranks="svd")
    exact = sum(n * product(one) for one, n in sent) / sum(n for _, n in sent)
    np.testing.assert_allclose(product(result), exact, atol=1e-5)


def test_components_of_products_are_in_order_and_zero_ones_can_be_trained() -> None:
    start = random(4, 0)
    result = mean(start, [(random(4, 1), 1)], ranks="svd")
    norms = np.linalg.norm(result[A], axis=1)[:2]
    assert norms[0] >= norms[1]
    np.testing.assert_array_equal(result[A][2:], start[A][2:])
    assert not result[B][:, 2:].any()


@pytest.mark.parametrize("ranks", ["partition", "zero_padding"])
@pytest.mark.parametrize("robust", ["none", "clip", "trimmed_mean"])
def test_with_one_rank_nothing_differs(ranks: str, robust: str) -> None:
    sent = [(random(2, seed), 5 + seed) for seed in range(6)]
    plain = mean(random(2, 9), sent, robust=robust)
    found = mean(random(2, 9), sent, robust=robust, ranks=ranks)
    assert {name: array.tobytes() for name, array in plain.items()} == {
        name: array.tobytes() for name, array in found.items()
    }


@given(st.integers(1, 4), st.integers(0, 9))
def test_the_first_components_of_an_ordered_adapter_are_its_best_approximation(
    rank: int, seed: int
) -> None:
    """Eckart and Young: the largest singular value of the error is the first one left out."""
    weights = random(4, seed)
    result = ordered(weights)
    np.testing.assert_allclose(product(result), product(weights), atol=1e-5)
    values = [*np.linalg.svd(product(weights))[1], 0, 0, 0]
    error = np.linalg.svd(product(weights) - product(truncate(result, rank)))[1]
    assert error[0] == pytest.approx(values[rank], abs=1e-5)


def test_an_adapter_of_one_matrix_has_no_order() -> None:
    weights = {A: random(4, 0)[A]}
    assert ordered(weights) is weights


@pytest.mark.parametrize("matrix", [A, B])
def test_one_matrix_alone_is_averaged_by_components(matrix: str) -> None:
    sent = [({matrix: constant(rank, rank)[matrix]}, 1) for rank in (1, 2)]
    result = mean({matrix: constant(2, 7)[matrix]}, sent, ranks="svd")
    assert sorted(set(result[matrix].ravel().tolist())) == [1.5, 2]


@given(st.integers(1, 6), st.integers(1, 6))
def test_padding_after_truncation_keeps_the_first_components(kept: int, rank: int) -> None:
    weights = random(rank, 0)
    again = pad(truncate(weights, kept), rank)
    first = min(kept, rank)
    assert rank_of(again) == rank
    np.testing.assert_array_equal(again[A][:first], weights[A][:first])
    assert not again[A][first:].any()
    assert not again[B][:, first:].any()
