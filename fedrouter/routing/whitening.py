"""Spaces to compare prompts in: embeddings as they are, standardised, or whitened.

Embeddings of language models are anisotropic: most of their variance lies within a task, in
directions that tell nothing about it. Divided by it, distances tell tasks apart: with the
covariance S within the tasks, ||W(x - g)||^2 with W W^T = S^-1 is Mahalanobis' distance, that of
the discriminant analysis of tasks that share a covariance.

S is a sum over samples, so clients can add it up without showing one. It needs tasks, and tasks
need it: FedRouter alternates the two a few times (`strategies.fedrouter`). That is the hard EM of a
mixture of Gaussians with one common covariance, run where the samples are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrouter.routing.types import Scatter, TaskProfile
from fedrouter.seeding import generator
from fedrouter.types import FloatArray

Space = Literal["raw", "standardised", "whitened"]
Number = TypeVar("Number", np.float32, np.float64)

LARGEST = 512  # dimensions of a scatter: 525 KB; longer embeddings are projected first
FLOOR = 1e-6  # eigenvalues count at least so much of the largest


@dataclass
class ScatterSum:
    """The scatters of many clients, added up as they arrive.

    Attributes:
        products: float64, shape (r (r + 1) / 2,).
        fourth: the sum of |z|^4.
    """

    products: NDArray[np.float64]
    fourth: float = 0.0


@dataclass(frozen=True, eq=False)
class Located:
    """Where the global tasks lie.

    Attributes:
        centroids: float32, shape (T, d): the mean embedding of each task's samples.
        space: float32, shape (d, r): maps embeddings to where distances are taken; None: raw.
        mean, deviation: of the squared distances, there, of prompts to their task's centroid.
        variance: of prompts, there, along the directions from one centroid to another.
    """

    centroids: FloatArray
    space: FloatArray | None
    mean: float
    deviation: float
    variance: float


def projection(dimension: int, seed: int) -> NDArray[np.float64]:
    """A random map of embeddings, shape (dimension, r), that about keeps their distances; the
    identity where they have no more than 512 dimensions."""
    if dimension <= LARGEST:
        return np.eye(dimension)
    draws = generator(seed, "projection", dimension)
    return draws.normal(0, LARGEST**-0.5, (dimension, LARGEST))


def scatter(
    points: NDArray[np.floating[Any]], labels: NDArray[np.int64], projected: NDArray[np.float64]
) -> Scatter:
    """The scatter of `points`, shape (n, d), around the mean of each label's."""
    exact = np.asarray(points, np.float64) @ projected
    means = np.stack([exact[labels == j].mean(axis=0) for j in range(labels.max() + 1)])
    rest = exact - means[labels]
    products = upper_triangle(rest.T @ rest).astype(np.float32)
    return Scatter(products, float(np.square(np.square(rest).sum(axis=1)).sum()))


def upper_triangle(matrix: NDArray[Number]) -> NDArray[Number]:
    """The upper triangle of a matrix, shape (r, r), row by row: shape (r (r + 1) / 2,)."""
    return matrix[np.triu_indices(len(matrix))]


def symmetric_matrix(upper: NDArray[Number], size: int) -> NDArray[Number]:
    """The symmetric matrix, shape (size, size), of an upper triangle."""
    matrix = np.zeros((size, size), upper.dtype)
    matrix[np.triu_indices(size)] = upper
    return np.asarray(matrix + np.triu(matrix, 1).T)


def sum_scatters(profiles: Iterable[TaskProfile]) -> tuple[list[TaskProfile], ScatterSum]:
    """The profiles without their scatters, and the sum of those: a scatter is large, and in memory
    for no longer than it takes to add it."""
    kept, total = [], ScatterSum(np.zeros(0))
    for profile in profiles:
        if profile.scatter is not None:
            if not total.products.size:
                total.products = np.zeros(profile.scatter.products.shape)
            total.products += profile.scatter.products
            total.fourth += profile.scatter.fourth
        kept.append(replace(profile, scatter=None))
    return kept, total


def locate(
    kind: Space,
    profiles: Sequence[TaskProfile],
    scatters: ScatterSum,
    assigned: Sequence[Sequence[int]],
    *,
    before: FloatArray,
    projected: NDArray[np.float64],
) -> Located:
    """Centroids, space and distances from what clients added up.

    A whitened space fits the samples that it was made of: they lie nearer to their centroids than
    new prompts will. Without a sample z, S would be S - z z' / n, and z's squared distance D
    D / (1 - D (1 - rho) / n) (Sherman and Morrison); mean and deviation are corrected by that.

    Args:
        kind: "raw": as they are; "standardised": every dimension by its deviation over all samples;
            "whitened": by the covariance within the tasks, shrunk towards a round one (Ledoit and
            Wolf 2004).
        profiles: at least one.
        scatters: the sum of theirs.
        assigned: for each of them, the global task of each local task.
        before: shape (T, d): centroids of the global tasks so far; those without samples stay.
        projected: what the clients' scatters were projected with.
    """
    local = np.concatenate([profile.centroids for profile in profiles]).astype(np.float64)
    counts = np.concatenate([profile.counts for profile in profiles]).astype(np.float64)
    tasks = np.concatenate([np.asarray(one, np.int64) for one in assigned])
    sums, sizes = np.zeros(before.shape), np.zeros(len(before))
    np.add.at(sums, tasks, local * counts[:, None])
    np.add.at(sizes, tasks, counts)
    held = sizes > 0
    centroids = np.where(held[:, None], sums / np.where(held, sizes, 1)[:, None], before)
    if kind == "raw":
        return Located(centroids.astype(np.float32), None, *distance_moments(profiles))
    around = symmetric_matrix(scatters.products, projected.shape[1])
    samples = counts.sum()
    within = (around + _between(local, counts, centroids[tasks], projected)) / samples
    own = 0.0  # what a sample's own part in the space is, of its squared distance
    if kind == "standardised":
        middle = np.average(local, axis=0, weights=counts)
        total = (around + _between(local, counts, middle, projected)) / samples
        scaled = np.diag(1 / _floored(np.diag(total)) ** 0.5)
    else:
        covariance, rho = shrunk(within, samples, scatters.fourth)
        values, vectors = np.linalg.eigh(covariance)
        root = (vectors / _floored(values) ** 0.5) @ vectors.T
        scaled = (root + root.T) / 2  # symmetric to the last bit: half of it need not travel
        own = (1 - rho) / samples
    inside = scaled @ within @ scaled
    mean = float(np.trace(inside))
    reported, deviation, _ = distance_moments(profiles)
    rest = 1 - min(own * mean, 1 - FLOOR)
    return Located(
        centroids=centroids.astype(np.float32),
        space=(projected @ scaled).astype(np.float32),
        mean=mean / rest,
        deviation=mean * deviation / reported / rest**2 if reported > 0 else 0.0,
        variance=_along(inside, centroids @ projected @ scaled) / rest,
    )


def _along(covariance: NDArray[np.float64], centroids: NDArray[np.float64]) -> float:
    """The mean variance along the directions from each centroid to each other; along any, where
    there are none."""
    apart = (centroids[:, None] - centroids).reshape(-1, centroids.shape[1])
    lengths = np.square(apart).sum(axis=1)
    apart = apart[lengths > 0] / lengths[lengths > 0, None] ** 0.5
    if not len(apart):
        return float(np.trace(covariance) / len(covariance))
    return float(((apart @ covariance) * apart).sum(axis=1).mean())


def distance_moments(
    profiles: Sequence[TaskProfile], apart: NDArray[np.float64] | float = 0.0
) -> tuple[float, float, float]:
    """Mean and standard deviation of the squared distances D that profiles tell of, and the
    variance along one direction, Var D / (2 E D): what it is for a round Gaussian, and for another
    the mean of the variances along its axes, weighted by themselves.

    Args:
        profiles: at least one.
        apart: shape (local tasks of all profiles,): squared distance of each local task's centroid
            to the place that distances are meant to, where the profiles took them to the centroid.
    """
    counts = np.concatenate([profile.counts for profile in profiles]).astype(np.float64)
    second_moments = np.concatenate([profile.second_moments for profile in profiles])
    fourth_moments = np.concatenate([profile.fourth_moments for profile in profiles])
    first = np.average(second_moments + apart, weights=counts)
    second = np.average(fourth_moments + 2 * apart * second_moments + apart**2, weights=counts)
    varied = max(0.0, float(second - first**2))
    return float(first), varied**0.5, varied / (2 * float(first)) if first > 0 else 0.0


def shrunk(
    covariance: NDArray[np.float64], samples: float, fourth: float
) -> tuple[NDArray[np.float64], float]:
    """Ledoit and Wolf's estimate, (1 - rho) S + rho m I with m the mean variance, and rho.

    rho = min(b, d) / d with d = ||S - m I||^2 and b = (sum |z|^4 / n - ||S||^2) / n, squared
    Frobenius norms: from sums that clients add up, the same as on all samples in one place.

    Args:
        covariance: S, of n samples z with mean zero.
        samples: n.
        fourth: sum |z|^4.
    """
    size = len(covariance)
    mean = np.trace(covariance) / size
    round_ = mean * np.eye(size)
    distance = np.square(covariance - round_).sum()
    noise = max(0.0, (fourth / samples - np.square(covariance).sum()) / samples)
    rho = min(noise, distance) / distance if distance > 0 else 0.0
    return np.asarray((1 - rho) * covariance + rho * round_), float(rho)


def _between(
    local: NDArray[np.float64],
    counts: NDArray[np.float64],
    around: NDArray[np.float64],
    projected: NDArray[np.float64],
) -> NDArray[np.float64]:
    """sum n (c - g)(c - g)^T over local centroids, projected."""
    rest = ((local - around) @ projected) * np.sqrt(counts)[:, None]
    return np.asarray(rest.T @ rest)


def _floored(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variances, none so small that it blows up; 1 where all are zero."""
    largest = values.max()
    return values.clip(min=FLOOR * largest) if largest > 0 else np.ones_like(values)
