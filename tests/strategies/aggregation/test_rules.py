"""The robust rules, by hand and by their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from fedrouter.strategies.aggregation.rules import (
    coordinate_mean,
    geometric_median_weights,
    krum_weights,
)

ONES = np.ones(5)
LINE = [np.array([x], np.float32) for x in (0, 1, 2, 3, 100)]
PLANE = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [9, -7]], np.float32)


def gram(points: np.ndarray) -> np.ndarray:
    exact = np.asarray(points, np.float64)
    return exact @ exact.T


def test_a_trimmed_mean_leaves_out_both_ends_of_each_number() -> None:
    assert coordinate_mean(LINE, ONES, trimmed=1).tolist() == [2]
    assert coordinate_mean(LINE, ONES, trimmed=0).tolist() == [21.2]
    vectors = [np.array([i, -i], np.float32) for i in (1, 2, 3, 40)]
    assert coordinate_mean(vectors, np.ones(4), trimmed=1).tolist() == [2.5, -2.5]


def test_the_median_is_the_mean_trimmed_most() -> None:
    assert coordinate_mean(LINE, ONES, trimmed=2).tolist() == [2]
    assert coordinate_mean(LINE[1:], np.ones(4), trimmed=1).tolist() == [2.5]


def test_vectors_are_scaled_first() -> None:
    factors = np.array([1, 1, 1, 1, 0.01])
    assert coordinate_mean(LINE, factors, trimmed=2) == pytest.approx([1])


def test_the_geometric_median_of_a_line_is_its_median() -> None:
    weights = geometric_median_weights(gram(np.stack(LINE)))
    assert weights @ np.stack(LINE)[:, 0] == pytest.approx(2, abs=1e-3)
    assert weights.sum() == pytest.approx(1)


def test_the_geometric_median_of_equal_vectors_is_their_mean() -> None:
    np.testing.assert_allclose(geometric_median_weights(np.ones((3, 3))), 1 / 3)


@given(arrays(np.float64, (6, 2), elements=st.floats(-5, 5)))
def test_the_geometric_median_has_the_smallest_sum_of_distances(points: np.ndarray) -> None:
    def total(at: np.ndarray) -> float:
        return float(np.linalg.norm(points - at, axis=1).sum())

    found = geometric_median_weights(gram(points)) @ points
    best = minimize(total, points.mean(axis=0), method="Nelder-Mead", options={"xatol": 1e-9})
    starts = min(best.fun, *(total(point) for point in points))
    assert total(found) <= starts * (1 + 1e-3) + 1e-6


def test_krum_leaves_out_the_vectors_that_lie_farthest() -> None:
    """By hand, n = 5 and f = 1: each point has its 3 nearest others. The corners of the square have
    the mean squared distance (1 + 1 + 2) / 3, the outlier has more than 80."""
    weights = krum_weights(gram(PLANE), hostile=1)
    assert weights.tolist() == [0.25, 0.25, 0.25, 0.25, 0]
    assert krum_weights(gram(PLANE), hostile=0).tolist() == [0.2] * 5


def test_krum_prefers_the_closest_neighbours() -> None:
    """On the line with f = 2, scores are means over the 2 nearest others: 0: (1 + 4) / 2, 1: 1,
    2: 1, 3: (1 + 4) / 2, 100: more than 9,000. Of the tie at the third place the first wins."""
    assert (krum_weights(gram(np.stack(LINE)), hostile=2) > 0).tolist() == [True] * 3 + [False] * 2


@given(st.permutations(range(5)), st.sampled_from([geometric_median_weights, krum_weights]))
def test_the_order_of_the_vectors_does_not_matter(order: list[int], rule: object) -> None:
    points = PLANE * np.array([1.0, 1.1]) + np.arange(5)[:, None] * 0.01  # without ties
    options = () if rule is geometric_median_weights else (1,)
    straight = rule(gram(points), *options) @ points
    moved = rule(gram(points[order]), *options) @ points[order]
    np.testing.assert_allclose(moved, straight, rtol=1e-6, atol=1e-6)
