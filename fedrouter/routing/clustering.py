"""K-means of samples into local tasks, and of local tasks into global tasks (paper, step 0).

FedRouter, arXiv 2604.00050: client i groups the embeddings of its prompts with K-means into local
tasks with centroids c_ij; the server groups all c_ij with K-means into global tasks with centroids
g_t; assignment(i, j) = argmin_t ||c_ij - g_t||.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from fedrouter.routing.bounds import joining_weights
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.seeding import generator
from fedrouter.types import FloatArray

RESTARTS = 10  # initializations of K-means; the one with the lowest inertia is kept
SAMPLE = 20_000  # largest number of points on which all initializations are tried
BLOCK = 1024  # rows of distances computed at a time: limits memory, and fits into the cache


@dataclass(frozen=True, eq=False)
class Clusters:
    """A clustering of n points; clusters are numbered by first appearance among the points.

    Attributes:
        labels: int64, shape (n,): the cluster of each point.
        centroids: float32, shape (k, d): the mean of each cluster's points.
        counts: int64, shape (k,): number of points; all positive.
        second_moments: float64, shape (k,): mean squared distance of a cluster's points to its
            centroid (or to another point, see `group`).
        fourth_moments: float64, shape (k,): mean of the fourth power of that distance.
    """

    labels: NDArray[np.int64]
    centroids: FloatArray
    counts: NDArray[np.int64]
    second_moments: NDArray[np.float64]
    fourth_moments: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GlobalTasks:
    """A clustering of local tasks into T global tasks, numbered by first appearance in order of
    client and local task.

    Attributes:
        centroids: float32, shape (T, d): g_t.
        assignment: client -> the index of the global task of each of its local tasks.
    """

    centroids: FloatArray
    assignment: Mapping[int, tuple[int, ...]]


def cluster(
    points: NDArray[np.floating[Any]],
    k: int,
    seed: int,
    weights: NDArray[np.float64] | None = None,
) -> Clusters:
    """K-means of `points` into `k` clusters; fewer if there are fewer distinct points.

    Of more than 20,000 points, a random sample of 20,000 selects the initialization, from which
    K-means then runs on all points (Bradley and Fayyad 1998). This is about five times as fast and
    gives the same result if the clusters are well separated.

    Args:
        points: shape (n, d), finite; n at least 1.
        k: number of clusters, at least 1.
        seed: seed of the initializations.
        weights: of the points in the objective, shape (n,); None: all 1.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    # In float64 the order in which threads add up cannot move a point to another cluster.
    exact = np.asarray(points, np.float64)
    k = _distinct(exact, at_most=k)
    kmeans = KMeans(k, n_init=RESTARTS, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer clusters found: handled below
        if len(exact) > SAMPLE:
            some = generator(seed, "sample").choice(len(exact), SAMPLE, replace=False)
            some_weights = None if weights is None else weights[some]
            starts = kmeans.fit(exact[some], sample_weight=some_weights).cluster_centers_
            kmeans = KMeans(k, init=starts, n_init=1)
        labels = _by_appearance(kmeans.fit_predict(exact, sample_weight=weights))
    return group(exact, labels)


def _distinct(points: NDArray[np.float64], at_most: int) -> int:
    """The number of distinct points, counted up to `at_most`."""
    seen: set[bytes] = set()
    for row in points:
        seen.add((row + 0.0).tobytes())  # + 0.0 turns -0.0 into 0.0
        if len(seen) == at_most:
            break
    return len(seen)


def group(
    points: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    squared: NDArray[np.float64] | None = None,
) -> Clusters:
    """Centroids, counts and distance moments of labelled points.

    Args:
        points: shape (n, d).
        labels: shape (n,): the cluster of each point, from 0; no cluster may be empty.
        squared: shape (n,): the squared distances whose moments are computed; None: those to the
            centroids.
    """
    exact = np.asarray(points, np.float64)
    centroids = np.stack([exact[labels == j].mean(axis=0) for j in range(labels.max() + 1)])
    counts = np.bincount(labels)
    if squared is None:
        squared = np.zeros(len(exact))
        for start in range(0, len(exact), BLOCK):
            block = slice(start, start + BLOCK)
            squared[block] = np.square(exact[block] - centroids[labels[block]]).sum(axis=1)
    second_moments = np.bincount(labels, weights=squared) / counts
    fourth_moments = np.bincount(labels, weights=np.square(squared)) / counts
    return Clusters(labels, centroids.astype(np.float32), counts, second_moments, fourth_moments)


def without_small(
    points: NDArray[np.floating[Any]], labels: NDArray[np.int64], least: int
) -> NDArray[np.int64]:
    """Labels with the points of every cluster of fewer than `least` assigned to the cluster, of
    those with as many, with the nearest mean; to the largest cluster if none has as many.

    Args:
        points: shape (n, d).
        labels: shape (n,): from 0; none may be missing.
        least: number of points.

    Returns:
        Shape (n,): a subset of the labels, as they were.
    """
    counts = np.bincount(labels)
    enough = np.flatnonzero(counts >= least)
    if not len(enough):
        return np.full_like(labels, counts.argmax())
    if len(enough) == len(counts):
        return labels
    exact = np.asarray(points, np.float64)
    means = np.stack([exact[labels == j].mean(axis=0) for j in range(len(counts))])
    nearest = enough[squared_distances(means, means[enough]).argmin(axis=1)]
    return np.where(counts[labels] >= least, labels, nearest[labels])


def join(
    profiles: Sequence[TaskProfile], n_global: int, seed: int, bounded: bool = False
) -> GlobalTasks:
    """K-means of all clients' local centroids into global tasks; every centroid has weight 1, or is
    bounded in its weight (`bounds.joining_weights`).

    The result does not depend on the order of `profiles`. If there are fewer than `n_global`
    distinct centroids, there are fewer global tasks.

    Args:
        profiles: at least one, of different clients.
        n_global: number of global tasks, at least 1.
        seed: seed of the initializations of K-means.
        bounded: whether to bound the weights.
    """
    ordered = sorted(profiles, key=lambda profile: profile.client)
    local = np.concatenate([profile.centroids for profile in ordered])
    weights = joining_weights(ordered) if bounded else np.ones(len(local))
    centroids = _weighted_centroids(local[weights > 0], weights[weights > 0], n_global, seed)
    nearest = squared_distances(local, centroids).argmin(axis=1)
    first_seen = list(dict.fromkeys(nearest.tolist()))
    assigned = iter(_by_appearance(nearest).tolist())
    return GlobalTasks(
        centroids=centroids[first_seen],
        assignment={
            profile.client: tuple(next(assigned) for _ in profile.counts) for profile in ordered
        },
    )


def _weighted_centroids(
    points: FloatArray, weights: NDArray[np.float64], k: int, seed: int
) -> FloatArray:
    """The weighted means of the clusters that K-means finds with weights."""
    if (weights == 1).all():
        return cluster(points, k, seed).centroids
    labels = cluster(points, k, seed, weights).labels
    own = [labels == j for j in range(labels.max() + 1)]
    means = [np.average(points[which], axis=0, weights=weights[which]) for which in own]
    return np.stack(means).astype(np.float32)


def nearest_tasks(geometry: TaskGeometry, points: NDArray[np.floating[Any]]) -> tuple[int, ...]:
    """The index of the nearest task of each point; points have shape (n, d)."""
    distances = squared_distances(points, geometry.centroids, geometry.space)
    return tuple(distances.argmin(axis=1).tolist())


def squared_distances(
    points: NDArray[np.floating[Any]],
    centroids: NDArray[np.floating[Any]],
    space: FloatArray | None = None,
) -> NDArray[np.float64]:
    """Squared Euclidean distances of points to centroids, after a linear transform of both.

    ||x - c||^2 = ||x||^2 - 2 x c + ||c||^2 is computed as one matrix product, in float64 and with
    the centroids' mean as the origin: embeddings are far from zero and close to each other, so the
    expanded form would otherwise lose precision.

    Args:
        points: shape (n, d).
        centroids: shape (k, d).
        space: the transform, shape (d, r); None: the identity.

    Returns:
        Shape (n, k), at least 0.
    """
    origin = np.asarray(centroids, np.float64).mean(axis=0)

    def moved(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        offsets: NDArray[np.float64] = np.asarray(vectors, np.float64) - origin
        return offsets if space is None else offsets @ np.asarray(space, np.float64)

    distances = np.empty((len(points), len(centroids)))
    with _few_threads(len(points)):
        targets = moved(centroids)
        norms = np.square(targets).sum(axis=1)
        for start in range(0, len(points), BLOCK):
            block = moved(points[start : start + BLOCK])
            own = np.square(block).sum(axis=1, keepdims=True)
            distances[start : start + BLOCK] = own - 2 * (block @ targets.T) + norms
    return distances.clip(min=0)


def _few_threads(rows: int) -> AbstractContextManager[object]:
    """Limit numpy to one thread for products of at most BLOCK rows. More threads would save less
    than a millisecond, and they keep spinning on the cores that torch needs next: the generation of
    eight responses took 1.4 times as long."""
    return _blas().limit(limits=1, user_api="blas") if rows <= BLOCK else nullcontext()


@cache
def _blas() -> ThreadpoolController:
    """The controller of numpy's and scikit-learn's threads; creating one takes milliseconds."""
    return ThreadpoolController()


def _by_appearance(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Labels renumbered 0, 1, ... in the order in which they first appear."""
    number = {label: i for i, label in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([number[label] for label in labels.tolist()], np.int64)
