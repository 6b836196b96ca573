"""What one client's profile can do to sums over clients, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrouter.routing.bounds import (
    bounded_counts,
    bounded_moments,
    bounded_profile,
    bounded_shifts,
    joining_weights,
    largest_total,
    lower_median,
)
from fedrouter.routing.clustering import join
from fedrouter.routing.federated_kmeans import initial_centroids, standardization
from fedrouter.routing.types import Scatter, TaskProfile

COUNTS = st.lists(st.integers(1, 10**9), min_size=1, max_size=8)


def profile(client: int, places: list[float], *counts: int, scatter: float = 0) -> TaskProfile:
    centroids = np.array([[place, 0] for place in places], np.float32)
    ones = (1.0,) * len(places)
    counts = counts or (10,) * len(places)
    products = Scatter(np.full(3, scatter, np.float32), scatter) if scatter else None
    return TaskProfile(client, centroids, counts, ones, ones, scatter=products)


def test_the_lower_median_does_not_follow_the_larger_half() -> None:
    assert lower_median([1, 10**9]) == 1
    assert lower_median([5, 1, 3]) == 3


def test_a_client_counts_for_at_most_twice_the_median() -> None:
    profiles = [profile(0, [1, 2]), profile(1, [1], 20), profile(2, [1], 30), profile(3, [1], 999)]
    assert largest_total(profiles) == 40
    assert bounded_counts((10, 10), 40) == (10, 10)
    assert bounded_counts((10**9, 1), 40) == (39, 1)
    assert bounded_counts((30, 90), 40) == (10, 30)


@given(COUNTS, st.integers(1, 10**6))
def test_bounds_keep_local_tasks_and_proportions(counts: list[int], most: int) -> None:
    found = bounded_counts(counts, most)
    assert all(1 <= n <= before for n, before in zip(found, counts, strict=True))
    assert sum(found) <= most + len(counts)
    assert sum(counts) > most or found == tuple(counts)


def test_a_scatter_counts_for_as_many_samples_as_its_client() -> None:
    """With 40 of 400 samples a scatter counts for a tenth; the (1, 1), (1, 2), (2, 2) of 5 have the
    trace 10, which ten unit vectors may have, but not six."""
    one = profile(0, [1], 400, scatter=500)
    found = bounded_profile(one, 40, unit=False).scatter
    assert found is not None
    np.testing.assert_allclose(found.products, 50)
    assert found.fourth == pytest.approx(50)
    for samples, expected in ((10, 5), (6, 3)):
        found = bounded_profile(profile(0, [1], samples, scatter=5), 40, unit=True).scatter
        assert found is not None
        np.testing.assert_allclose(found.products, expected)


def test_means_of_unit_vectors_are_at_most_as_long() -> None:
    found = bounded_profile(profile(0, [0.5, 2]), 40, unit=True).centroids
    assert found.tolist() == [[0.5, 0], [1, 0]]
    assert bounded_profile(profile(0, [0.5, 2]), 40, unit=False).centroids.tolist() == [
        [0.5, 0],
        [2, 0],
    ]


def test_moments_are_bounded_by_those_of_the_other_clients() -> None:
    profiles = [profile(client, [1, 2]) for client in range(3)]
    liar = replace(profiles[0], second_moments=(1.0, 1e9), fourth_moments=(1.0, 1e18))
    found = bounded_moments([liar, *profiles])
    assert found[0].second_moments == (1, 5)
    assert found[0].fourth_moments == (1, 25)
    assert found[1:] == profiles


def test_a_local_centroid_stays_near_its_task() -> None:
    """Distances to the tasks at 0 and 10: means 1, 1 and 45 over clients; at most 2 * 1."""
    honest = [profile(0, [1, 9]), profile(1, [-1, 11])]
    tasks, near = [(0, 1)] * 3, np.array([[0, 0], [10, 0]], np.float32)
    found = bounded_shifts([*honest, profile(2, [90, 10])], tasks, near)
    assert [one.centroids[:, 0].tolist() for one in found] == [[1, 9], [-1, 11], [2, 10]]
    still = [profile(client, [0, 10]) for client in range(3)]
    assert bounded_shifts(still, tasks, near)[2].centroids[:, 0].tolist() == [0, 10]


def test_a_robust_standardization_does_not_follow_one_client() -> None:
    """Means 0, 0, 0 and 1e6; variances 1, 1, 4 and 1e12. Squared distances to the median mean 0:
    1, 1, 4 and 2e12, of which the median is 2.5."""
    profiles = [
        TaskProfile(
            client,
            np.array([[mean]], np.float32),
            (10,),
            (1.0,),
            (1.0,),
            variances=np.array([variance], np.float32),
        )
        for client, (mean, variance) in enumerate(((0, 1), (0, 1), (0, 4), (1e6, 1e12)))
    ]
    found = standardization(profiles, robust=True)
    assert found.mean.tolist() == [0]
    assert found.deviation.tolist() == pytest.approx([2.5**0.5])
    assert standardization(profiles).deviation[0] > 1e5


def test_starts_ignore_centroids_far_outside() -> None:
    honest = [profile(client, [0 + client / 10, 10 + client / 10]) for client in range(3)]
    everyone = [*honest, profile(3, [0, 1e6])]
    for start in initial_centroids(everyone, 2, seed=0, bounded=True):
        assert start.max() < 11
    assert max(start.max() for start in initial_centroids(everyone, 2, seed=0)) == 1e6


def test_many_and_far_centroids_weigh_less_in_joining() -> None:
    profiles = [profile(0, [0, 1]), profile(1, [1, 2]), profile(2, [0.5] * 8), profile(3, [2, 1e6])]
    found = joining_weights(profiles)
    assert found.tolist() == [1] * 4 + [0.5] * 8 + [1, 0]


def test_a_far_centroid_takes_no_task_of_the_others() -> None:
    """Two tasks, at 0 and 10; the third client's second centroid is a million away."""
    honest = [profile(client, [0 + client / 10, 10 + client / 10]) for client in range(3)]
    joined = join([*honest, profile(3, [0, 1e6])], 2, seed=0, bounded=True)
    assert joined.assignment == {0: (0, 1), 1: (0, 1), 2: (0, 1), 3: (0, 1)}
    assert sorted(joined.centroids[:, 0].tolist()) == np.float32([0.075, 10.1]).tolist()
    unbounded = join([*honest, profile(3, [0, 1e6])], 2, seed=0)
    assert unbounded.assignment[0] == (0, 0)


def test_bounds_change_nothing_among_clients_of_about_the_same_size() -> None:
    profiles = [profile(c, [0 + c / 10, 10 - c / 10], 9 + c, 12) for c in range(4)]
    plain, bounded = join(profiles, 2, seed=3), join(profiles, 2, seed=3, bounded=True)
    assert bounded.assignment == plain.assignment
    np.testing.assert_array_equal(bounded.centroids, plain.centroids)
    most = largest_total(profiles)
    assert [bounded_profile(one, most, unit=False).counts for one in profiles] == [
        one.counts for one in profiles
    ]
