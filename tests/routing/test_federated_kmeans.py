"""K-means from added-up statistics against K-means of all samples in one place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from support.profiles import assigned, described

from fedrouter.routing.clustering import cluster
from fedrouter.routing.federated_kmeans import (
    STARTS,
    initial_centroids,
    is_settled,
    lloyd_step,
    standardization,
)
from fedrouter.routing.types import Standardization, TaskProfile
from fedrouter.types import FloatArray


def clustered(client: int, points: NDArray[np.float64], number: int) -> TaskProfile:
    found = cluster(points, number, seed=client)
    moments = tuple(found.second_moments.tolist()), tuple(found.fourth_moments.tolist())
    return TaskProfile(client, found.centroids, tuple(found.counts.tolist()), *moments)


def blobs(clients: int, tasks: int, seed: int = 0) -> list[NDArray[np.float64]]:
    draws = np.random.default_rng(seed)
    centers = draws.normal(0, 4, (tasks, 5))
    return [
        centers[draws.integers(tasks, size=30)] + draws.normal(size=(30, 5)) for _ in range(clients)
    ]


@given(st.integers(1, 5), st.integers(0, 100))
def test_standardization_is_that_of_all_samples_in_one_place(clients: int, seed: int) -> None:
    parts = [part + 7 for part in blobs(clients, 3, seed)]
    whole = np.concatenate(parts)
    found = standardization([described(i, part) for i, part in enumerate(parts)])
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.deviation, whole.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found(whole), axis=1), 1, rtol=1e-5)


def test_standardizing_by_hand() -> None:
    standard = Standardization(np.array([1.0, 0], np.float32), np.array([2.0, 1], np.float32))
    points = np.array([[7.0, 4], [1, 0]])
    np.testing.assert_allclose(standard(points), [[0.6, 0.8], [0, 0]])


def test_constant_dimensions_do_not_divide_by_zero() -> None:
    varied = np.array([[0.0, 3], [2, 3]])
    assert standardization([described(0, varied)]).deviation.tolist() == pytest.approx([1, 1e-3])
    alike = standardization([described(0, np.ones((3, 2)))])
    assert (alike.deviation > 0).all()
    np.testing.assert_array_equal(alike(np.ones((3, 2))), 0)


def test_a_step_is_the_mean_of_the_nearest_samples_by_hand() -> None:
    parts = [np.array([[0.0], [4]]), np.array([[2.0], [10]])]
    start = np.array([[1.0], [9], [50]], np.float32)
    profiles = [assigned(i, part, (start,)) for i, part in enumerate(parts)]
    [moved] = lloyd_step((start,), profiles)
    np.testing.assert_allclose(moved, [[2], [10], [50]])  # the last has no sample


def test_the_start_of_lowest_inertia_is_kept() -> None:
    parts = [np.array([[0.0], [4]]), np.array([[2.0], [10]])]
    good, bad = np.array([[2.0], [10]], np.float32), np.array([[0.0], [1]], np.float32)
    profiles = [assigned(i, part, (bad, good)) for i, part in enumerate(parts)]
    [best] = lloyd_step((bad, good), profiles)
    np.testing.assert_allclose(best, [[2], [10]])


def test_iterations_are_scikit_learns_on_all_samples() -> None:
    parts = blobs(clients=4, tasks=6)
    [start, *_] = initial_centroids([clustered(i, p, 3) for i, p in enumerate(parts)], 6, seed=1)
    starts: tuple[FloatArray, ...] = (start,)
    for _ in range(3):
        starts = lloyd_step(starts, (assigned(i, p, starts) for i, p in enumerate(parts)))
    whole = np.concatenate(parts)
    judge = KMeans(6, init=start.astype(np.float64), n_init=1, max_iter=3, tol=0).fit(whole)
    np.testing.assert_allclose(starts[0], judge.cluster_centers_, rtol=1e-4)


def test_starts_differ_and_do_not_depend_on_the_order_of_clients() -> None:
    profiles = [clustered(i, part, 6) for i, part in enumerate(blobs(clients=6, tasks=9))]
    starts = initial_centroids(profiles, 9, seed=0)
    again = initial_centroids(profiles[::-1], 9, seed=0)
    assert 1 < len(starts) <= STARTS
    assert len({start.tobytes() for start in starts}) == len(starts)
    for one, other in zip(starts, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fewer_distinct_centroids_than_tasks_are_one_start() -> None:
    profiles = [clustered(0, np.array([[0.0], [5], [5]]), 4)]
    [start] = initial_centroids(profiles, 4, seed=0)
    assert sorted(start.ravel().tolist()) == [0, 5]


def test_one_start_that_does_not_move_is_settled() -> None:
    start = np.array([[0.6, 0.8], [1, 0]], np.float32)
    assert is_settled((start,), (start + np.float32(5e-5),))
    assert not is_settled((start,), (start + np.float32(5e-4),))
    assert not is_settled((start, start), (start,))
