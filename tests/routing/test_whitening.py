"""Spaces from added-up statistics against the same computed on all samples in one place."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from fedrouter.routing.clustering import group, squared_distances
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.routing.whitening import (
    LARGEST,
    fit_geometry,
    projection,
    scatter,
    shrunk,
    sum_scatters,
)

D = 6


def profile(client: int, points: NDArray[np.float64], labels: NDArray[np.int64]) -> TaskProfile:
    found = group(points, labels)
    return TaskProfile(
        client,
        found.centroids,
        tuple(found.counts.tolist()),
        tuple(found.second_moments.tolist()),
        tuple(found.fourth_moments.tolist()),
        scatter=scatter(points, labels, projection(points.shape[1], 0)),
    )


def federation(
    clients: int = 3, tasks: int = 2, samples: int = 1000
) -> tuple[list[TaskProfile], NDArray[np.float64]]:
    """Profiles of clients that all hold both tasks, and the samples less their task's mean."""
    draws = np.random.default_rng(0)
    mix = draws.normal(size=(D, D))
    points = draws.normal(size=(clients, samples, D)) @ mix + 5
    labels = np.tile(np.arange(samples) % tasks, (clients, 1))
    points[labels == 1] += 3
    rest = points.copy()
    for t in range(tasks):
        rest[labels == t] -= points[labels == t].mean(axis=0)
    return [profile(i, points[i], labels[i]) for i in range(clients)], rest.reshape(-1, D)


def place(
    profiles: list[TaskProfile],
    assigned: list[tuple[int, ...]],
    before: NDArray[np.float64],
) -> TaskGeometry:
    known, scatters = sum_scatters(iter(profiles))
    assert all(one.scatter is None for one in known)
    names = tuple(f"task-{t}" for t in range(len(before)))
    return fit_geometry(
        known,
        scatters,
        assigned,
        before=TaskGeometry(names, before.astype(np.float32), 0.0, 0.0, 0.0),
        projected=projection(before.shape[1], 0),
    )


def transform(geometry: TaskGeometry) -> NDArray[np.float32]:
    assert geometry.space is not None
    return geometry.space


def located(profiles: list[TaskProfile]) -> tuple[NDArray[np.float64], float]:
    assigned: list[tuple[int, ...]] = [(0, 1)] * len(profiles)
    found = place(profiles, assigned, np.zeros((2, D)))
    return transform(found).astype(np.float64), found.mean


def test_whitening_is_that_of_scikit_learns_ledoit_wolf_on_all_samples() -> None:
    profiles, rest = federation()
    space, spread = located(profiles)
    judge = LedoitWolf(assume_centered=True).fit(rest)
    # The fourth moments are around the clients' own means, not the tasks': a little off.
    np.testing.assert_allclose(space @ space.T, np.linalg.inv(judge.covariance_), rtol=0.01)
    assert spread == pytest.approx(D, rel=0.05)


def test_the_shrunk_covariance_is_ledoit_and_wolfs() -> None:
    rest = np.random.default_rng(1).normal(size=(30, D)) * np.arange(1, D + 1)
    fourth = float(np.square(np.square(rest).sum(axis=1)).sum())
    judge = LedoitWolf(assume_centered=True).fit(rest)
    matrix, rho = shrunk(rest.T @ rest / 30, 30, fourth)
    np.testing.assert_allclose(matrix, judge.covariance_, rtol=1e-10)
    assert rho == pytest.approx(judge.shrinkage_)


def test_a_direction_that_tells_nothing_no_longer_decides() -> None:
    """Two tasks differ in y by little; x varies much within both."""
    draws = np.random.default_rng(0)
    points = np.stack([draws.normal(0, 5, 200), np.arange(200) % 2 + draws.normal(0, 0.1, 200)])
    labels = np.arange(200) % 2
    profiles = [profile(0, points.T, labels)]
    found = place(profiles, [(0, 1)], np.zeros((2, 2)))
    raw = squared_distances(points.T, found.centroids).argmin(axis=1)
    white = squared_distances(points.T, found.centroids, found.space).argmin(axis=1)
    assert np.mean(raw == labels) < 0.8
    assert np.mean(white == labels) == 1.0


def test_centroids_are_means_over_samples_and_stay_where_there_are_none() -> None:
    points = np.array([[0.0, 0], [3, 3], [3, 3]])
    profiles = [
        profile(i, points[part], np.zeros(len(part), int)) for i, part in enumerate(([0], [1, 2]))
    ]
    found = place(profiles, [(0,), (0,)], np.array([[9.0, 9], [7, 7]]))
    np.testing.assert_allclose(found.centroids, [[2, 2], [7, 7]])
    assert np.isfinite(transform(found)).all()


def test_samples_that_are_all_alike_give_a_finite_space() -> None:
    points = np.ones((5, 2))
    profiles = [profile(0, points, np.zeros(5, int))]
    found = place(profiles, [(0,)], points[:1])
    np.testing.assert_array_equal(transform(found), np.eye(2))


def test_long_embeddings_are_projected_and_their_profile_stays_small() -> None:
    points = np.random.default_rng(0).normal(size=(20, 2048))
    projected = projection(2048, seed=3)
    assert projected.shape == (2048, LARGEST)
    np.testing.assert_array_equal(projected, projection(2048, seed=3))
    lengths = np.square(points @ projected).sum(axis=1) / np.square(points).sum(axis=1)
    np.testing.assert_allclose(lengths, 1, atol=0.3)
    assert scatter(points, np.zeros(20, int), projected).products.nbytes < 1_000_000


def test_held_out_prompts_lie_as_far_from_their_task_as_the_router_expects() -> None:
    """A whitened space fits the samples that made it: half of them here, with 40 dimensions."""
    draws = np.random.default_rng(3)
    mix = draws.normal(size=(40, 40))
    cloud = draws.standard_t(8, size=(400, 40)) @ mix
    labels = np.arange(400) % 2
    cloud[labels == 1] += 100
    fitted = [profile(0, cloud[:200], labels[:200])]
    first = place(fitted, [(0, 1)], np.zeros((2, 40)))

    def squared(points: NDArray[np.float64], found: TaskGeometry) -> NDArray[np.float64]:
        distances = squared_distances(points, found.centroids, found.space)
        return np.asarray(distances[np.arange(len(points)), labels[: len(points)]])

    there = squared(cloud[:200], first)
    again = group(cloud[:200], labels[:200], there)
    told = replace(
        fitted[0],
        second_moments=tuple(again.second_moments.tolist()),
        fourth_moments=tuple(again.fourth_moments.tolist()),
    )
    found = place([told], [(0, 1)], np.zeros((2, 40)))
    new = squared(cloud[200:], found)
    assert there.mean() < 0.85 * new.mean()
    assert found.mean == pytest.approx(new.mean(), rel=0.1)
    assert found.deviation == pytest.approx(new.std(), rel=0.25)
    assert found.variance == pytest.approx(found.mean / 40, rel=0.2)
