"""The whitened space, in which prompts are compared.

Embeddings of language models are anisotropic: most of their variance lies within the tasks, in
directions that do not separate them. Whitening by the within-task covariance S removes it:
||W^T (x - g)||^2 with W W^T = S^-1 is the Mahalanobis distance of linear discriminant analysis.

S is a sum over samples, so the server can compute it from sums that clients report. Estimating S
needs the assignment of samples to tasks, and the assignment needs S: FedRouter alternates the two a
few times (`strategies.fedrouter.refined`). This is hard EM of a mixture of Gaussians with a shared
covariance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrouter.routing.types import Scatter, TaskGeometry, TaskProfile
from fedrouter.seeding import generator
from fedrouter.serialization import symmetric_matrix, upper_triangle
from fedrouter.types import FloatArray

LARGEST = 512  # largest dimension of a scatter (525 KB); longer embeddings are projected
FLOOR = 1e-6  # smallest eigenvalue, relative to the largest
NO_VARIANCE = 1e-60  # smaller variances have no inverse square root in float32


@dataclass
class ScatterSum:
    """The sum of many clients' scatters.

    Attributes:
        products: float64, shape (r (r + 1) / 2,).
        fourth: the sum of |z|^4.
    """

    products: NDArray[np.float64]
    fourth: float = 0.0


def projection(dimension: int, seed: int) -> NDArray[np.float64]:
    """A random projection that approximately preserves distances (Johnson and Lindenstrauss),
    shape (dimension, 512); the identity if `dimension` is at most 512."""
    if dimension <= LARGEST:
        return np.eye(dimension)
    draws = generator(seed, "projection", dimension)
    return draws.normal(0, LARGEST**-0.5, (dimension, LARGEST))


def scatter(
    points: NDArray[np.floating[Any]], labels: NDArray[np.int64], projected: NDArray[np.float64]
) -> Scatter:
    """The scatter of points around the mean of their label.

    Args:
        points: shape (n, d).
        labels: shape (n,): from 0; none may be missing.
        projected: the projection, shape (d, r).
    """
    exact = np.asarray(points, np.float64) @ projected
    means = np.stack([exact[labels == j].mean(axis=0) for j in range(labels.max() + 1)])
    rest = exact - means[labels]
    products = upper_triangle(rest.T @ rest).astype(np.float32)
    return Scatter(products, float(np.square(np.square(rest).sum(axis=1)).sum()))


def sum_scatters(profiles: Iterable[TaskProfile]) -> tuple[list[TaskProfile], ScatterSum]:
    """Split profiles into profiles without scatters and the sum of the scatters. Scatters are
    large, so each is released as soon as it is added."""
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
    profiles: Sequence[TaskProfile],
    scatters: ScatterSum,
    assigned: Sequence[Sequence[int]],
    *,
    before: TaskGeometry,
    projected: NDArray[np.float64],
) -> TaskGeometry:
    """Estimate centroids, transform and distance statistics from the clients' sums.

    Vectors are whitened by the within-task covariance, shrunk towards a multiple of the identity
    (Ledoit and Wolf 2004), if the clients sent scatters; otherwise there is no transform.

    Args:
        profiles: at least one.
        scatters: the sum of the profiles' scatters; empty if there are none.
        assigned: for each profile, the index of the global task of each local task.
        before: the previous geometry; a task without samples keeps its centroid.
        projected: the projection of the clients' scatters, shape (d, r).
    """
    local = np.concatenate([profile.centroids for profile in profiles]).astype(np.float64)
    counts = np.concatenate([profile.counts for profile in profiles]).astype(np.float64)
    tasks = np.concatenate([np.asarray(one, np.int64) for one in assigned])
    centroids = _means(local, counts, tasks, before.centroids)
    raw = replace(before, centroids=centroids.astype(np.float32), space=None)
    if not scatters.products.size:
        mean, deviation, variance = distance_moments(profiles)
        return replace(raw, mean=mean, deviation=deviation, variance=variance)
    around = symmetric_matrix(scatters.products)
    samples = float(counts.sum())
    within = (around + _between(local, counts, centroids[tasks], projected)) / samples
    scaled, rho = _whitening(within, samples, scatters.fourth)
    return _transformed(
        raw,
        profiles,
        within=within,
        centroids=centroids @ projected,
        projected=projected,
        scaled=scaled,
        own=(1 - rho) / samples,  # a sample's share in the estimate of the covariance
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
    """The geometry with a linear transform and the distance statistics after it.

    The samples that a whitening transform was estimated from are closer to their centroids than new
    prompts. Without the sample z, S would be S - z z^T / n, and by the Sherman-Morrison formula the
    squared distance D of z would be D / (1 - D (1 - rho) / n). Mean and standard deviation are
    corrected by this factor.

    Args:
        raw: the geometry with its new centroids.
        profiles: the clients' profiles; their moments are distances before this transform.
        within: S, the within-task covariance of projected embeddings, shape (r, r).
        centroids: projected, shape (T, r).
        projected: the projection, shape (d, r).
        scaled: the transform after it, shape (r, r).
        own: (1 - rho) / n.
    """
    inside = scaled @ within @ scaled
    mean = max(0.0, float(np.trace(inside)))  # a scatter's eigenvalues may be -0 after rounding
    reported, deviation, _ = distance_moments(profiles)
    rest = 1 - min(own * mean, 1 - FLOOR)
    return replace(
        raw,
        space=(projected @ scaled).astype(np.float32),
        mean=mean / rest,
        deviation=mean * deviation / reported / rest**2 if reported > 0 else 0.0,
        variance=max(0.0, _along(inside, centroids @ scaled)) / rest,
    )


def _means(
    local: NDArray[np.float64],
    counts: NDArray[np.float64],
    tasks: NDArray[np.int64],
    before: FloatArray,
) -> NDArray[np.float64]:
    """The mean of each task's local centroids, weighted by samples; a task without local tasks
    keeps its previous centroid."""
    sums, sizes = np.zeros(before.shape), np.zeros(len(before))
    np.add.at(sums, tasks, local * counts[:, None])
    np.add.at(sizes, tasks, counts)
    held = sizes > 0
    means = np.where(held[:, None], sums / np.where(held, sizes, 1)[:, None], before)
    return np.asarray(means)


def _whitening(
    within: NDArray[np.float64], samples: float, fourth: float
) -> tuple[NDArray[np.float64], float]:
    """The symmetric inverse square root of the shrunk covariance, and the shrinkage rho."""
    covariance, rho = shrunk(within, samples, fourth)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors / _floored(values) ** 0.5) @ vectors.T
    return (root + root.T) / 2, rho  # exactly symmetric: only half of it is sent


def _along(covariance: NDArray[np.float64], centroids: NDArray[np.float64]) -> float:
    """The mean variance along the directions between pairs of centroids; the mean over all
    directions if there is only one centroid."""
    apart = (centroids[:, None] - centroids).reshape(-1, centroids.shape[1])
    lengths = np.square(apart).sum(axis=1)
    apart = apart[lengths > 0] / lengths[lengths > 0, None] ** 0.5
    if not len(apart):
        return float(np.trace(covariance) / len(covariance))
    return float(((apart @ covariance) * apart).sum(axis=1).mean())


def distance_moments(
    profiles: Sequence[TaskProfile], apart: NDArray[np.float64] | float = 0.0
) -> tuple[float, float, float]:
    """Statistics of the squared distances D in the clients' profiles.

    Args:
        profiles: at least one.
        apart: shape (local tasks of all profiles,): squared distance of each local centroid to its
            global centroid, if the profiles' distances are to the local ones; 0 otherwise.

    Returns:
        Mean and standard deviation of D, and the variance along one direction, Var D / (2 E D):
        exact for an isotropic Gaussian; otherwise the mean of the variances along the principal
        axes, weighted by these variances.
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
    """The Ledoit-Wolf estimate (1 - rho) S + rho m I, where m is the mean variance, and rho.

    rho = min(b, d) / d with d = ||S - m I||^2 and b = (sum |z|^4 / n - ||S||^2) / n, in squared
    Frobenius norms. It is computed from sums over clients, and equals the estimate from all samples
    in one place.

    Args:
        covariance: S, shape (r, r), of n samples z with mean zero.
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
    """sum n (c - g)(c - g)^T over local centroids c and their global ones g, projected."""
    rest = ((local - around) @ projected) * np.sqrt(counts)[:, None]
    return np.asarray(rest.T @ rest)


def _floored(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variances, bounded below relative to the largest; all 1 if all are (nearly) zero."""
    largest = values.max()
    return values.clip(min=FLOOR * largest) if largest > NO_VARIANCE else np.ones_like(values)
