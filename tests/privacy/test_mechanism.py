"""Clipping by hand; noise by its statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest

from fedrouter.privacy.mechanism import clip_factor, noisy_sum
from fedrouter.privacy.noise import normal_noise

NUMBERS = arrays(np.float32, st.integers(1, 8), elements=st.floats(-1e6, 1e6, width=32))


def test_the_joint_norm_is_clipped() -> None:
    three, four = np.array([3.0]), np.array([0.0, 4.0])
    assert clip_factor([three, four], 5.0) == 1
    assert clip_factor([three, four], 1.0) == pytest.approx(0.2)
    assert clip_factor([np.zeros(3)], 1.0) == 1
    assert clip_factor([np.array([np.inf, 1.0])], 1.0) == 0
    assert clip_factor([np.array([np.nan])], 1.0) == 0


@given(st.lists(NUMBERS, min_size=1, max_size=3), st.floats(1e-3, 1e3))
def test_clipped_vectors_are_within_the_bound(vectors: list[np.ndarray], bound: float) -> None:
    factor = clip_factor(vectors, bound)
    joined = np.concatenate(vectors).astype(np.float64) * factor
    assert np.linalg.norm(joined) <= bound * (1 + 1e-9)
    assert 0 <= factor <= 1


def test_noise_is_standard_normal() -> None:
    draws = normal_noise("secret", "a", 1, size=200_000)
    assert kstest(draws, "norm").pvalue > 1e-3
    assert np.isfinite(draws).all() and np.abs(draws).max() < 6.5
    assert np.abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01


def test_noise_depends_on_the_secret_and_on_the_path() -> None:
    first = normal_noise("secret", "a", 1, size=1000)
    np.testing.assert_array_equal(first, normal_noise("secret", "a", 1, size=1000))
    for other in (("other", "a", 1), ("secret", "b", 1), ("secret", "a", 2), ("secret", "a", "1")):
        assert np.abs(np.corrcoef(first, normal_noise(*other, size=1000))[0, 1]) < 0.15


def test_the_deviation_is_the_multiplier_times_the_sensitivity() -> None:
    total = np.full((200, 500), 7.0)
    found = noisy_sum(total, 0.5, 3.0, "secret", "sum")
    assert found.shape == total.shape
    assert found.mean() == pytest.approx(7, abs=0.02)
    assert found.std() == pytest.approx(1.5, rel=0.01)
