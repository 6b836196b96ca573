"""Bounds on what one client's profile does to sums and means over all profiles.

A client writes its counts, moments and centroids itself. Compared with the median over clients, it
counts for a bounded number of samples and of local tasks, and a centroid far from all others has no
part in the clustering of local tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.routing.types import TaskProfile
from fedrouter.serialization import symmetric_matrix
from fedrouter.types import FloatArray

LARGEST_SHARE = 2  # of a client in samples or local tasks, as a multiple of the median
FARTHEST = 5  # largest distance to the middle, as a multiple of the median of clients' largest


def lower_median(values: Iterable[float]) -> float:
    """The median; of an even number of values the lower of the two in the middle, since their mean
    follows the larger one without bound."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def largest_total(profiles: Iterable[TaskProfile]) -> int:
    """The number of samples for which a client counts at most: twice the median over clients."""
    return LARGEST_SHARE * int(lower_median(sum(profile.counts) for profile in profiles))


def bounded_counts(counts: Sequence[int], most: int) -> tuple[int, ...]:
    """A client's samples per local task, scaled down to `most` in all, but at least 1 each."""
    total = sum(counts)
    return tuple(counts) if total <= most else tuple(max(1, n * most // total) for n in counts)


def bounded_profile(profile: TaskProfile, most: int, unit: bool) -> TaskProfile:
    """The profile with a part in sums like that of `most` samples.

    Args:
        profile: as a client sent it.
        most: the largest number of samples.
        unit: whether embeddings were scaled to unit vectors; their means are then at most as long,
            and the trace of their scatter is at most their number.
    """
    counts, centroids, scatter = profile.counts, profile.centroids, profile.scatter
    if unit:
        lengths = np.linalg.norm(centroids.astype(np.float64), axis=1, keepdims=True)
        centroids = (centroids / lengths.clip(min=1)).astype(np.float32)
    bounded = bounded_counts(counts, most)
    if scatter is not None:
        factor = min(1.0, sum(bounded) / sum(counts))
        trace = float(np.trace(symmetric_matrix(scatter.products.astype(np.float64))))
        if unit and factor * trace > sum(bounded):
            factor = sum(bounded) / trace
        products = (scatter.products * np.float32(factor)).astype(np.float32)
        scatter = replace(scatter, products=products, fourth=scatter.fourth * factor)
    return replace(profile, counts=bounded, centroids=centroids, scatter=scatter)


def bounded_shifts(
    profiles: Sequence[TaskProfile], assigned: Sequence[Sequence[int]], centroids: FloatArray
) -> list[TaskProfile]:
    """The profiles with local centroids no farther from their global task than a multiple of the
    median over clients; those beyond are moved towards it.

    Args:
        profiles: at least one.
        assigned: for each profile, the index of the global task of each local task.
        centroids: of the global tasks that clients assigned their samples to, shape (T, d).
    """
    exact = centroids.astype(np.float64)
    shifts = [p.centroids - exact[list(own)] for p, own in zip(profiles, assigned, strict=True)]
    lengths = [np.linalg.norm(shift, axis=1) for shift in shifts]
    most = LARGEST_SHARE * lower_median(float(own.mean()) for own in lengths)
    return [
        replace(
            profile,
            centroids=np.where(
                long[:, None] > most,
                exact[list(own)] + shift * (most / np.maximum(long, most or 1.0))[:, None],
                profile.centroids,
            ).astype(np.float32),
        )
        for profile, own, shift, long in zip(profiles, assigned, shifts, lengths, strict=True)
    ]


def bounded_moments(profiles: Sequence[TaskProfile]) -> list[TaskProfile]:
    """The profiles with distance moments up to a multiple of the median over clients.

    Args:
        profiles: at least one.
    """
    second = FARTHEST * lower_median(float(np.mean(p.second_moments)) for p in profiles)
    fourth = FARTHEST**2 * lower_median(float(np.mean(p.fourth_moments)) for p in profiles)
    return [
        replace(
            profile,
            second_moments=tuple(min(value, second) for value in profile.second_moments),
            fourth_moments=tuple(min(value, fourth) for value in profile.fourth_moments),
        )
        for profile in profiles
    ]


def joining_weights(profiles: Sequence[TaskProfile]) -> NDArray[np.float64]:
    """The weight of each local centroid when local tasks are clustered into global ones, in the
    order of the profiles: 1, less for clients with more than twice the median number of local
    tasks, and 0 for centroids far from all others.

    Args:
        profiles: at least one.
    """
    numbers = [len(profile.counts) for profile in profiles]
    most = LARGEST_SHARE * lower_median(numbers)
    weights = np.repeat([min(1.0, most / number) for number in numbers], numbers)
    exact = [profile.centroids.astype(np.float64) for profile in profiles]
    middle = np.median([own.mean(axis=0) for own in exact], axis=0)
    distances = [np.linalg.norm(own - middle, axis=1) for own in exact]
    farthest = FARTHEST * lower_median(float(own.max()) for own in distances)
    return np.where(np.concatenate(distances) <= farthest, weights, 0.0)
