"""Spaces to compare prompts in: embeddings as they are, standardized, or whitened.

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
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrouter.routing.types import Scatter, TaskGeometry, TaskProfile
from fedrouter.seeding import generator
from fedrouter.serialization import symmetric_matrix, upper_triangle
from fedrouter.types import FloatArray

SpaceKind = Literal["raw", "standardized", "whitened"]

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


def fit_geometry(
    kind: SpaceKind,
    profiles: Sequence[TaskProfile],
    scatters: ScatterSum,
    assigned: Sequence[Sequence[int]],
    *,
    before: TaskGeometry,
    projected: NDArray[np.float64],
) -> TaskGeometry:
    """Estimate centroids, transform and distance statistics from what clients added up.

    Args:
        kind: the space: "raw", embeddings as they are; "standardized", every dimension divided by
            its deviation over all samples; "whitened", by the covariance within the tasks, shrunk
            towards a multiple of the identity (Ledoit and Wolf 2004).
        profiles: at least one.
        scatters: the sum of theirs.
        assigned: for each profile, the global task of each local task.
        before: the geometry so far; the centroids of tasks without samples stay.
        projected: the map that the clients' scatters were projected with.
    """
    local = np.concatenate([profile.centroids for profile in profiles]).astype(np.float64)
    counts = np.concatenate([profile.counts for profile in profiles]).astype(np.float64)
    tasks = np.concatenate([np.asarray(one, np.int64) for one in assigned])
    centroids = _means(local, counts, tasks, before.centroids)
    raw = replace(before, centroids=centroids.astype(np.float32), space=None)
    if kind == "raw":
        mean, deviation, variance = distance_moments(profiles)
        return replace(raw, mean=mean, deviation=deviation, variance=variance)
    around = symmetric_matrix(scatters.products)
    samples = float(counts.sum())
    within = (around + _between(local, counts, centroids[tasks], projected)) / samples
    own = 0.0  # the share of a sample's squared distance that the sample itself adds to the space
    if kind == "standardized":
        middle = np.average(local, axis=0, weights=counts)
        total = (around + _between(local, counts, middle, projected)) / samples
        scaled = np.diag(1 / _floored(np.diag(total)) ** 0.5)
    else:
        scaled, rho = _whitening(within, samples, scatters.fourth)
        own = (1 - rho) / samples
    return _transformed(
        raw,
        profiles,
        within=within,
        centroids=centroids @ projected,
        projected=projected,
        scaled=scaled,
        own=own,
    )


def _transformed(
    raw: TaskGeometry,
    profiles: Sequence[TaskProfile],
    *,
    within: NDArray[np.float64],
    centroids: NDArray[np.float64],
    projected: NDArray[np.float64],
    scaled: NDArray[np.float64],
    own: float,
) -> TaskGeometry:
    """The geometry in the space of a transform, with its distance statistics.

    A whitened space fits the samples that it was computed from: they lie nearer to their centroids
    than new prompts will. Leaving a sample z out, S would be S - z z' / n, and z's squared distance
    D would be D / (1 - D (1 - rho) / n) (Sherman and Morrison); mean and deviation are corrected
    by that.

    Args:
        raw: the geometry with its new centroids.
        profiles: what clients reported; their moments are of the space before.
        within: S, the covariance within the tasks, of projected embeddings, shape (r, r).
        centroids: projected, shape (T, r).
        projected: the projection, shape (d, r).
        scaled: the transform after it, shape (r, r).
        own: (1 - rho) / n for a whitened space; 0: no correction.
    """
    inside = scaled @ within @ scaled
    mean = float(np.trace(inside))
    reported, deviation, _ = distance_moments(profiles)
    rest = 1 - min(own * mean, 1 - FLOOR)
    return replace(
        raw,
        space=(projected @ scaled).astype(np.float32),
        mean=mean / rest,
        deviation=mean * deviation / reported / rest**2 if reported > 0 else 0.0,
        variance=_along(inside, centroids @ scaled) / rest,
    )


def _means(
    local: NDArray[np.float64],
    counts: NDArray[np.float64],
    tasks: NDArray[np.int64],
    before: FloatArray,
) -> NDArray[np.float64]:
    """The mean of the local centroids of each task, weighted by samples; of a task without any,
    the centroid before."""
    sums, sizes = np.zeros(before.shape), np.zeros(len(before))
    np.add.at(sums, tasks, local * counts[:, None])
    np.add.at(sizes, tasks, counts)
    held = sizes > 0
    means = np.where(held[:, None], sums / np.where(held, sizes, 1)[:, None], before)
    return np.asarray(means)


def _whitening(
    within: NDArray[np.float64], samples: float, fourth: float
) -> tuple[NDArray[np.float64], float]:
    """The symmetric inverse root of the shrunk covariance, and the shrinkage rho."""
    covariance, rho = shrunk(within, samples, fourth)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors / _floored(values) ** 0.5) @ vectors.T
    return (root + root.T) / 2, rho  # symmetric to the last bit: half of it need not travel


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
