import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from fedrouter.routing.clustering import cluster, join, squared_distances, without_small
from fedrouter.routing.types import TaskProfile
from fedrouter.seeding import derive_seed

POINTS = arrays(
    np.float32, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(-3, 3).map(float)
)


def profile(client: int, *centroids: tuple[float, ...]) -> TaskProfile:
    n = len(centroids)
    return TaskProfile(client, np.array(centroids, np.float32), (10,) * n, (0.5,) * n, (0.5,) * n)


def test_two_groups_by_hand() -> None:
    points = np.array([[10, 0], [0, 0], [12, 0], [0, 2], [0, 4]], np.float32)
    found = cluster(points, 2, seed=0)
    assert found.labels.tolist() == [0, 1, 0, 1, 1]
    assert found.centroids.tolist() == [[11, 0], [0, 2]]
    assert found.counts.tolist() == [2, 3]
    np.testing.assert_allclose(found.second_moments, [1, 8 / 3])
    assert found.centroids.dtype == np.float32


def test_k_is_capped_at_the_number_of_distinct_points() -> None:
    points = np.array([[1, 1], [-0.0, 0], [0.0, 0], [1, 1]], np.float32)
    found = cluster(points, 5, seed=0)
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert found.second_moments.tolist() == [0, 0]


def test_seeds_of_any_size_do() -> None:
    points = np.eye(3, dtype=np.float32)
    assert cluster(points, 1, derive_seed(0, "profile", 1)).counts.tolist() == [3]


def test_the_same_seed_gives_the_same_bits() -> None:
    points = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    first, second = cluster(points, 4, seed=3), cluster(points, 4, seed=3)
    assert first.centroids.tobytes() == second.centroids.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()


@settings(max_examples=40)
@given(points=POINTS, k=st.integers(1, 5), seed=st.integers(0, 2**63 - 1))
def test_every_cluster_is_non_empty_and_described_by_its_points(
    points: NDArray[np.float32], k: int, seed: int
) -> None:
    found = cluster(points, k, seed)
    assert 1 <= len(found.centroids) <= min(k, len(np.unique(points, axis=0)))
    assert found.labels[0] == 0
    assert list(dict.fromkeys(found.labels.tolist())) == list(range(len(found.centroids)))
    for j, centroid in enumerate(found.centroids):
        members = points[found.labels == j]
        assert len(members) == found.counts[j] > 0
        np.testing.assert_allclose(members.mean(axis=0), centroid, atol=1e-6)
        expected = np.square(members - members.mean(axis=0)).sum(axis=1).mean()
        np.testing.assert_allclose(found.second_moments[j], expected, atol=1e-5)


def test_local_tasks_of_two_clients_are_joined_by_hand() -> None:
    profiles = [profile(0, (0, 0), (10, 10)), profile(1, (10, 12), (0, 2), (50, 0))]
    tasks = join(profiles, 3, seed=0)
    assert tasks.assignment == {0: (0, 1), 1: (1, 0, 2)}
    assert tasks.centroids.tolist() == [[0, 1], [10, 11], [50, 0]]


def test_counts_do_not_weigh() -> None:
    profiles = [
        TaskProfile(0, np.array([[0.0], [2.0]], np.float32), (1, 999), (0.0, 0.0), (0.0, 0.0))
    ]
    assert join(profiles, 1, seed=0).centroids.tolist() == [[1.0]]


def test_n_global_is_capped_at_the_number_of_local_tasks() -> None:
    tasks = join([profile(4, (0, 0), (1, 1))], 8, seed=0)
    assert tasks.assignment == {4: (0, 1)}
    assert tasks.centroids.shape == (2, 2)


@settings(max_examples=25)
@given(points=POINTS, n_global=st.integers(1, 5), seed=st.integers(0, 99), data=st.data())
def test_join_does_not_depend_on_the_order_of_the_profiles(
    points: NDArray[np.float32], n_global: int, seed: int, data: st.DataObject
) -> None:
    profiles = [profile(client, tuple(point)) for client, point in enumerate(points)]
    tasks = join(profiles, n_global, seed)
    shuffled = join(data.draw(st.permutations(profiles)), n_global, seed)
    assert shuffled.assignment == tasks.assignment
    assert shuffled.centroids.tobytes() == tasks.centroids.tobytes()
    found = [task for client in range(len(profiles)) for task in tasks.assignment[client]]
    assert list(dict.fromkeys(found)) == list(range(len(tasks.centroids)))
    nearest = np.square(points[:, None] - tasks.centroids).sum(axis=2)
    np.testing.assert_allclose(nearest[range(len(found)), found], nearest.min(axis=1), atol=1e-5)


def test_distances_agree_with_scipy_over_several_blocks() -> None:
    draws = np.random.default_rng(0)
    points = draws.normal(size=(700, 5)).astype(np.float32)
    centroids = draws.normal(size=(3, 5)).astype(np.float32)
    expected = cdist(points, centroids, "sqeuclidean")
    np.testing.assert_allclose(squared_distances(points, centroids), expected, rtol=1e-12)


def test_distances_are_exact_far_from_the_origin() -> None:
    points = np.full((1, 4), 4096.0, np.float32)
    near = points + np.float32(2**-11)
    assert squared_distances(points, near).item() == 4 * 2.0**-22


def test_small_clusters_join_the_nearest_large_one_by_hand() -> None:
    points = np.array([[0], [1], [9], [10], [11], [7]], np.float32)
    labels = np.array([0, 0, 1, 1, 1, 2])
    assert without_small(points, labels, 1).tolist() == labels.tolist()
    assert without_small(points, labels, 2).tolist() == [0, 0, 1, 1, 1, 1]
    assert without_small(points, labels, 3).tolist() == [1] * 6
    assert without_small(points, labels, 9).tolist() == [1] * 6


@given(POINTS, st.integers(1, 5), st.integers(1, 6))
def test_no_cluster_is_small_unless_all_are(points: NDArray, k: int, least: int) -> None:
    labels = cluster(points, k, seed=0).labels
    after = without_small(points, labels, least)
    sizes = np.bincount(after)
    assert (sizes[sizes > 0] >= min(least, len(points))).all() or len(set(after.tolist())) == 1
    assert set(after.tolist()) <= set(labels.tolist())
