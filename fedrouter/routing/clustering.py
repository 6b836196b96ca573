"""Samples -> local tasks, and local tasks -> global tasks (step 0 of the method).

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

from fedrouter.routing.types import TaskProfile
from fedrouter.seeding import generator
from fedrouter.types import FloatArray

RESTARTS = 10  # K-means runs from different starts, of which the tightest is kept
SAMPLE = 20_000  # points on which the starts are tried
BLOCK = 1024  # rows per block of distances: bounds the memory, and fits a cache


@dataclass(frozen=True, eq=False)
class Clusters:
    """Points in groups, numbered in the order in which they first appear among the points.

    Attributes:
        labels: int64, shape (n,): the cluster of each point.
        centroids: float32, shape (k, d): the mean of each cluster's points.
        counts: int64, shape (k,): number of points; all positive.
        spreads: float64, shape (k,): mean squared distance of a cluster's points to its centroid.
        fourths: float64, shape (k,): mean of the fourth power of that distance.
    """

    labels: NDArray[np.int64]
    centroids: FloatArray
    counts: NDArray[np.int64]
    second_moments: NDArray[np.float64]
    fourth_moments: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GlobalTasks:
    """Local tasks in groups, numbered by first appearance in order of client and local task.

    Attributes:
        centroids: float32, shape (T, d): g_t.
        assignment: client -> the global task of each of its local tasks.
    """

    centroids: FloatArray
    assignment: Mapping[int, tuple[int, ...]]


def cluster(points: NDArray[np.floating[Any]], k: int, seed: int) -> Clusters:
    """K-means of `points` into `k` clusters, or as many as there are distinct points.

    Where there are more than 20,000 points, the starts are tried on a random sample of as many, and
    the tightest goes on with all of them: ten times as fast, with the same result where the
    clusters are clear (Bradley and Fayyad 1998).

    Args:
        points: shape (n, d), finite; n at least 1.
        k: number of clusters, at least 1.
        seed: decides the starts.
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
            starts = kmeans.fit(exact[some]).cluster_centers_
            kmeans = KMeans(k, init=starts, n_init=1)
        labels = _by_appearance(kmeans.fit_predict(exact))
    return group(exact, labels)


def _distinct(points: NDArray[np.float64], at_most: int) -> int:
    """How many distinct points there are, counted up to a limit."""
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
    """The clusters that `labels`, from 0 and none left out, make of `points`, shape (n, d).

    Args:
        squared: shape (n,): the squared distances that the spreads are of; None: to the centroids.
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


def join(profiles: Sequence[TaskProfile], n_global: int, seed: int) -> GlobalTasks:
    """K-means of all clients' local centroids, each counting once, into global tasks.

    The order of `profiles` does not matter. There are fewer than `n_global` global tasks where
    there are fewer distinct local ones.

    Args:
        profiles: at least one, of different clients.
        n_global: number of global tasks, at least 1.
        seed: decides the starts of K-means.
    """
    ordered = sorted(profiles, key=lambda profile: profile.client)
    local = np.concatenate([profile.centroids for profile in ordered])
    centroids = cluster(local, n_global, seed).centroids
    nearest = squared_distances(local, centroids).argmin(axis=1)
    first_seen = list(dict.fromkeys(nearest.tolist()))
    assigned = iter(_by_appearance(nearest).tolist())
    return GlobalTasks(
        centroids=centroids[first_seen],
        assignment={
            profile.client: tuple(next(assigned) for _ in profile.counts) for profile in ordered
        },
    )


def squared_distances(
    points: NDArray[np.floating[Any]],
    centroids: NDArray[np.floating[Any]],
    space: FloatArray | None = None,
) -> NDArray[np.float64]:
    """Squared Euclidean distances, shape (n, k), of points (n, d) to centroids (k, d), taken where
    the map `space`, shape (d, r), takes both.

    ||x - c||^2 = ||x||^2 - 2 x c + ||c||^2 as one matrix product, with the centroids' mean as the
    origin and in float64: embeddings are far from their own origin and near each other, where the
    expanded form would lose its digits.
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
    """One thread for numpy's products of up to a block of rows. More would save less than a
    millisecond, and numpy's threads go on spinning on the cores that torch needs next: eight
    responses took 1.4 times as long."""
    return _blas().limit(limits=1, user_api="blas") if rows <= BLOCK else nullcontext()


@cache
def _blas() -> ThreadpoolController:
    """The threads of numpy and scikit-learn; finding their libraries takes milliseconds."""
    return ThreadpoolController()


def _by_appearance(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Labels renumbered 0, 1, ... in the order in which they first appear."""
    number = {label: i for i, label in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([number[label] for label in labels.tolist()], np.int64)
