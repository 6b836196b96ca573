import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedrouter.strategies.aggregation import WeightedMean

Adapter = dict[str, NDArray[np.float32]]

ADAPTERS = st.fixed_dictionaries(
    {
        name: arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32))
        for name, shape in (("a", (2, 3)), ("b", (3, 1)))
    }
)
WEIGHTED = st.lists(st.tuples(ADAPTERS, st.floats(1e-3, 1e6)), min_size=1, max_size=5)


def mean(weighted: list[tuple[Adapter, float]]) -> Adapter:
    accumulated = WeightedMean()
    for weights, weight in weighted:
        accumulated.add(weights, weight)
    return accumulated.result()


def adapter(*values: float) -> Adapter:
    return {"a": np.array([values], np.float32)}


def test_weighted_mean_by_hand() -> None:
    result = mean([(adapter(1, 10), 1), (adapter(5, 20), 3)])
    assert result["a"].tolist() == [[4.0, 17.5]]
    assert result["a"].dtype == np.float32


def test_what_was_added_may_change_afterwards() -> None:
    weights = adapter(1, 2)
    accumulated = WeightedMean()
    accumulated.add(weights, 1)
    weights["a"][:] = 7
    assert accumulated.result()["a"].tolist() == [[1, 2]]


@given(ADAPTERS, st.floats(1e-3, 1e6))
def test_one_adapter_is_its_own_mean_exactly(weights: Adapter, weight: float) -> None:
    for name, array in mean([(weights, weight)]).items():
        np.testing.assert_array_equal(array, weights[name])


@given(WEIGHTED, st.data())
def test_the_order_does_not_matter(
    weighted: list[tuple[Adapter, float]], data: st.DataObject
) -> None:
    shuffled = mean(data.draw(st.permutations(weighted)))
    for name, array in mean(weighted).items():
        np.testing.assert_allclose(shuffled[name], array, rtol=1e-6, atol=1e-6)


@given(WEIGHTED)
def test_the_mean_lies_between_its_parts(weighted: list[tuple[Adapter, float]]) -> None:
    for name, array in mean(weighted).items():
        parts = np.stack([weights[name] for weights, _ in weighted])
        assert (array >= parts.min(axis=0) - 1e-6).all()
        assert (array <= parts.max(axis=0) + 1e-6).all()


@given(WEIGHTED, st.floats(1e-3, 1e3))
def test_only_the_ratio_of_the_weights_matters(
    weighted: list[tuple[Adapter, float]], factor: float
) -> None:
    scaled = mean([(weights, weight * factor) for weights, weight in weighted])
    for name, array in mean(weighted).items():
        np.testing.assert_allclose(scaled[name], array, rtol=1e-6, atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_adapters() -> None:
    weights = {"a": np.ones((100, 1000), np.float32)}
    accumulated = WeightedMean()
    accumulated.add(weights, 1)
    tracemalloc.start()
    for _ in range(20):
        accumulated.add(weights, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * weights["a"].nbytes


@pytest.mark.parametrize("bad", [{}, {"b": np.zeros((1, 2), np.float32)}])
def test_other_tensors_than_before_are_refused_and_change_nothing(bad: Adapter) -> None:
    accumulated = WeightedMean()
    accumulated.add(adapter(1, 2), 1)
    with pytest.raises(ValueError, match="added before"):
        accumulated.add(bad, 1)
    assert accumulated.result()["a"].tolist() == [[1, 2]]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 1e300])
def test_bad_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        WeightedMean().add(adapter(1), weight)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no adapters"):
        WeightedMean().result()
