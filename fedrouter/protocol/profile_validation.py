"""A client's profile, checked against the order that it answers.

Besides names, shapes and ranges, the numbers must not contradict each other: moments and scatters
are sums over the same samples, so each bounds the others.
"""

from typing import Literal

import numpy as np

from fedrouter.errors import MessageError
from fedrouter.protocol.compression import MAX_NUMBER
from fedrouter.protocol.limits import MAX_COUNT, MAX_MOMENT, MAX_TABLE, check_count, check_labels
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    ClusterPrompts,
    DescribeEmbeddings,
    DetectNewTasks,
    GroupByLabel,
    OrderWithGeometry,
    ProfileOrder,
    ReassignByLoss,
    asks_scatter,
)
from fedrouter.routing.search import SEARCH
from fedrouter.routing.types import Scatter, TaskProfile
from fedrouter.routing.whitening import LARGEST
from fedrouter.serialization import symmetric_matrix

_NLocal = int | Literal["auto"] | None
ROUNDING = 1e-6  # relative error of sums in float64, and of eigenvalues from a float32 scatter
FLOAT32_ROUNDING = 1e-4  # relative error of sums over a float32 scatter
NOTHING = 1e-60  # sums this small may have lost all their digits


def check_profile(
    order: ProfileOrder, profile: TaskProfile, *, client: int, dimension: int, n_local: _NLocal
) -> None:
    """Check what a client reports about its data against what was asked.

    Args:
        order: what was asked.
        profile: the answer.
        client: who was asked.
        dimension: the number of dimensions of embeddings.
        n_local: `clustering.n_local`.

    Raises:
        MessageError: one line that names the first fault.
    """
    if profile.client != client:
        raise MessageError(f"profile: expected that of client {client}, got {profile.client}")
    _check_counts(order, profile, n_local)
    _check_centroids(order, profile, dimension)
    _check_moments(profile)
    _check_tasks(order, profile)
    _check_variances(order, profile, dimension)
    if (profile.scatter is not None) != asks_scatter(order):
        which = ("a", "none") if asks_scatter(order) else ("no", "one")
        raise MessageError(f"profile: expected {which[0]} scatter, got {which[1]}")
    if profile.scatter is not None:
        _check_scatter(profile.scatter, sum(profile.counts), min(dimension, LARGEST))
    names = len(profile.counts) if isinstance(order, GroupByLabel) else 0
    if len(profile.names) != names:
        raise MessageError(f"profile: expected {names} task names, got {len(profile.names)}")
    check_labels("profile", profile.names)


def largest_number(order: ProfileOrder, n_local: _NLocal) -> int:
    """The largest number of local tasks that a client may report."""
    if isinstance(order, GroupByLabel):
        return MAX_TABLE
    if isinstance(order, DescribeEmbeddings):
        return 1
    if isinstance(order, AssignToStarts):
        return sum(map(len, order.starts))
    if isinstance(order, ReassignByLoss):
        return len(order.adapters)
    if isinstance(order, AssignToNearest):
        known = len(order.geometry.tasks)
        return min(known, n_local) if isinstance(n_local, int) else known
    return SEARCH.max_clusters if n_local == "auto" else n_local or MAX_TABLE


def _check_counts(order: ProfileOrder, profile: TaskProfile, n_local: _NLocal) -> None:
    counts, most = profile.counts, largest_number(order, n_local)
    if not 1 <= len(counts) <= most:
        raise MessageError(f"profile: expected 1 to {most} local tasks, got {len(counts)}")
    for count in counts:
        check_count("profile", "samples", count)
    samples = SEARCH.reassign_samples if isinstance(order, ReassignByLoss) else MAX_COUNT
    repeated = len(order.starts) if isinstance(order, AssignToStarts) else 1
    check_count("profile", "samples in all", sum(counts), samples * repeated)


def _check_centroids(order: ProfileOrder, profile: TaskProfile, dimension: int) -> None:
    counts, centroids = profile.counts, profile.centroids
    if centroids.dtype != np.float32 or centroids.shape != (len(counts), dimension):
        raise MessageError(
            f"profile: expected float32 centroids of shape ({len(counts)}, {dimension}), got "
            f"{centroids.dtype} of shape {centroids.shape}"
        )
    if not (np.abs(centroids) <= MAX_NUMBER).all():  # NaN is not either
        raise MessageError(f"profile: expected finite centroids of numbers up to {MAX_NUMBER:g}")
    lengths = np.linalg.norm(centroids.astype(np.float64), axis=1)
    if _is_standardized(order) and not (lengths <= 1 + FLOAT32_ROUNDING).all():
        raise MessageError("profile: expected centroids of vectors of length 1")


def _is_standardized(order: ProfileOrder) -> bool:
    """Whether the points of a profile are vectors of length 1 (or 0)."""
    if isinstance(order, ClusterPrompts | AssignToStarts):
        return order.standardization is not None
    return isinstance(order, OrderWithGeometry) and order.geometry.standardization is not None


def _check_moments(profile: TaskProfile) -> None:
    """The means of n squared distances D and of D^2: (mean D)^2 <= mean D^2 <= n (mean D)^2."""
    counts, second, fourth = profile.counts, profile.second_moments, profile.fourth_moments
    if not len(second) == len(fourth) == len(counts):
        raise MessageError(
            f"profile: expected a second and a fourth moment for each of {len(counts)} local "
            f"tasks, got {len(second)} and {len(fourth)}"
        )
    for count, mean, mean_of_squares in zip(counts, second, fourth, strict=True):
        if not 0 <= mean <= MAX_MOMENT:
            raise MessageError(
                f"profile: expected second moments from 0 to {MAX_MOMENT:g}, got {mean:g}"
            )
        if not _fits(mean_of_squares, mean**2, count * mean**2, ROUNDING):
            raise MessageError(
                f"profile: expected a fourth moment from {mean**2:g} to {count * mean**2:g}, as "
                f"{count} distances with a second moment of {mean:g} have, got {mean_of_squares:g}"
            )


def _fits(value: float, least: float, most: float, rounding: float) -> bool:
    """Whether a value lies within bounds, up to rounding; NaN does not."""
    return least * (1 - rounding) - NOTHING <= value <= most * (1 + rounding) + NOTHING


def _check_tasks(order: ProfileOrder, profile: TaskProfile) -> None:
    tasks = profile.tasks
    if isinstance(order, AssignToStarts):
        number = sum(map(len, order.starts))
    elif isinstance(order, OrderWithGeometry):
        number = len(order.geometry.centroids)
    else:
        if tasks:
            raise MessageError(f"profile: expected no global tasks, got {len(tasks)}")
        return
    new = -1 if isinstance(order, DetectNewTasks) else None
    known = [task for task in tasks if task != new]
    possible = all(0 <= task < number for task in known) and len(known) == len(set(known))
    if len(tasks) != len(profile.counts) or not possible:
        raise MessageError(
            f"profile: expected a different one of {number} global tasks for each of "
            f"{len(profile.counts)} local tasks"
        )
    if isinstance(order, AssignToStarts):
        _check_starts(order, profile)


def _check_starts(order: AssignToStarts, profile: TaskProfile) -> None:
    """In every start, each sample is in one cluster."""
    ends = np.cumsum([len(centroids) for centroids in order.starts])
    samples = [0] * len(ends)
    for task, count in zip(profile.tasks, profile.counts, strict=True):
        samples[int(np.searchsorted(ends, task, side="right"))] += count
    if len(set(samples)) != 1:
        raise MessageError(
            f"profile: expected as many samples in each of {len(samples)} starts, got "
            f"{min(samples)} to {max(samples)}"
        )


def _check_variances(order: ProfileOrder, profile: TaskProfile, dimension: int) -> None:
    """The variances of all dimensions, whose sum is the second moment."""
    asked, variances = isinstance(order, DescribeEmbeddings), profile.variances
    if (variances is not None) != asked:
        which = ("", "none") if asked else ("no ", "some")
        raise MessageError(f"profile: expected {which[0]}variances, got {which[1]}")
    if variances is None:
        return
    if variances.dtype != np.float32 or variances.shape != (dimension,):
        raise MessageError(
            f"profile: expected float32 variances of shape ({dimension},), got {variances.dtype} "
            f"of shape {variances.shape}"
        )
    if not (variances >= 0).all():
        raise MessageError("profile: expected finite, not negative variances")
    total, moment = float(variances.sum(dtype=np.float64)), profile.second_moments[0]
    if not _fits(total, moment, moment, FLOAT32_ROUNDING):
        raise MessageError(
            f"profile: expected variances with the sum {moment:g}, the second moment, got {total:g}"
        )


def _check_scatter(scatter: Scatter, samples: int, size: int) -> None:
    """The sum of z z^T over n samples z: no negative eigenvalue, and with s its trace, which is the
    sum of |z|^2, the sum of |z|^4 lies between s^2 / n and s^2."""
    products, number = scatter.products, size * (size + 1) // 2
    if products.dtype != np.float32 or products.shape != (number,):
        raise MessageError(
            f"profile: expected a float32 scatter of shape ({number},), got {products.dtype} of "
            f"shape {products.shape}"
        )
    if not np.isfinite(products).all():
        raise MessageError("profile: expected a scatter of finite numbers")
    matrix = symmetric_matrix(products.astype(np.float64))
    total = float(np.trace(matrix))
    if not 0 <= total <= MAX_MOMENT * samples or not _is_positive(matrix, total):
        raise MessageError(
            "profile: expected a scatter without negative eigenvalues and with a trace up to "
            f"{MAX_MOMENT * samples:g}"
        )
    if not _fits(scatter.fourth, total**2 / samples, total**2, FLOAT32_ROUNDING):
        raise MessageError(
            f"profile: expected a scatter's sum of fourth powers from {total**2 / samples:g} to "
            f"{total**2:g}, as {samples} samples of its trace have, got {scatter.fourth:g}"
        )


def _is_positive(matrix: np.ndarray[tuple[int, ...], np.dtype[np.float64]], trace: float) -> bool:
    """Whether a symmetric matrix has no negative eigenvalue, up to rounding."""
    try:
        np.linalg.cholesky(matrix + (ROUNDING * trace + NOTHING) * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True
