"""K-means over the samples of all clients, from sums that clients report (beyond the paper).

The paper's K-means of local centroids sees each client's clusters only. Where clients hold many
tasks, with few samples of each, these mix tasks, and no clustering of them can separate them again.
Lloyd's iterations over all samples do not need the samples: for the centroids that the server
sends, each client reports the sums and counts of its nearest samples. They are run from several
starts; the inertia, which is such a sum too, tells the best.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.routing.bounds import joining_weights
from fedrouter.routing.types import Standardization, TaskProfile
from fedrouter.seeding import derive_seed, generator
from fedrouter.types import FloatArray

STARTS = 16  # of which half is dropped after each iteration
DRAWN_STARTS = 64  # more, if they are drawn from a covariance instead of clients' clusters
ITERATIONS = 6  # at most
DRAWN_ITERATIONS = 8  # as many more as it takes to halve that number to the other
SETTLED = 1e-4  # largest change of a coordinate that counts as none; vectors have length 1
NO_DEVIATION = 1e-30  # smaller deviations, times SMALLEST, are zero in float32
SMALLEST = 1e-3  # least deviation that a dimension is divided by, relative to the largest


def standardization(profiles: Sequence[TaskProfile], robust: bool = False) -> Standardization:
    """The mean and standard deviation of each dimension over all clients' samples.

    Args:
        profiles: the answers to `DescribeEmbeddings`; at least one.
        robust: take the medians over clients of their means and of their mean squared distances to
            it, instead of means weighted by samples.
    """
    counts = np.array([profile.counts[0] for profile in profiles], np.float64)
    means = np.concatenate([profile.centroids for profile in profiles]).astype(np.float64)
    given = [profile.variances for profile in profiles if profile.variances is not None]
    variances = np.stack(given).astype(np.float64)

    def over_clients(values: NDArray[np.float64]) -> NDArray[np.float64]:
        if robust:
            return np.asarray(np.median(values, axis=0))
        return np.asarray(np.average(values, axis=0, weights=counts))

    mean = over_clients(means)
    variance = over_clients(variances + np.square(means - mean))
    deviation = np.sqrt(variance)
    largest = deviation.max() if deviation.max() > NO_DEVIATION else 1.0
    return Standardization(
        mean.astype(np.float32), deviation.clip(min=SMALLEST * largest).astype(np.float32)
    )


def initial_centroids(
    profiles: Sequence[TaskProfile], number: int, seed: int, bounded: bool = False
) -> tuple[FloatArray, ...]:
    """Different starts: K-means of all clients' local centroids, weighted by samples.

    Args:
        profiles: at least one; their order does not matter.
        number: clusters of each start; fewer if there are fewer distinct centroids.
        seed: seed of the initializations.
        bounded: bound the weights of a client's centroids (`bounds.joining_weights`).
    """
    from sklearn.cluster import KMeans

    ordered = sorted(profiles, key=lambda profile: profile.client)
    local = np.concatenate([profile.centroids for profile in ordered]).astype(np.float64)
    counts = np.concatenate([profile.counts for profile in ordered]).astype(np.float64)
    if bounded:
        counts *= joining_weights(ordered)
        local, counts = local[counts > 0], counts[counts > 0]
    number = min(number, len(np.unique(local, axis=0)))
    starts: dict[bytes, FloatArray] = {}
    for start in range(STARTS):
        draws = derive_seed(seed, "start", start) % 2**32
        kmeans = KMeans(number, n_init=1, random_state=draws).fit(local, sample_weight=counts)
        centroids = kmeans.cluster_centers_.astype(np.float32)
        same = centroids[np.lexsort(centroids.T)].round(6)  # the same clusters in another order
        starts.setdefault(same.tobytes(), centroids)
    return tuple(starts.values())


def drawn_centroids(
    covariance: NDArray[np.float64], projected: NDArray[np.float64], number: int, seed: int
) -> tuple[FloatArray, ...]:
    """Starts of which no client sends anything: points of a Gaussian with the covariance of all
    clients' samples. Standardized samples have about the mean zero.

    Args:
        covariance: of projected samples, shape (r, r).
        projected: the projection, shape (d, r).
        number: centroids of each start.
        seed: seed of the draws.
    """
    values, vectors = np.linalg.eigh(covariance)
    directions = vectors * np.sqrt(values.clip(min=0))
    back = np.linalg.pinv(projected)
    draws = generator(seed, "starts").normal(size=(DRAWN_STARTS, number, directions.shape[1]))
    return tuple((draw @ directions.T @ back).astype(np.float32) for draw in draws)


def lloyd_step(
    starts: Sequence[FloatArray], profiles: Iterable[TaskProfile]
) -> tuple[FloatArray, ...]:
    """The means of the clusters of the better half of the starts, the best first.

    A cluster without samples keeps its centroid.

    Args:
        starts: the centroids that clients assigned their samples to.
        profiles: the answers to `AssignToStarts`; released one by one.
    """
    before = np.concatenate(starts).astype(np.float64)
    sums, counts, inertia = np.zeros(before.shape), np.zeros(len(before)), np.zeros(len(before))
    for profile in profiles:
        tasks, own = list(profile.tasks), np.array(profile.counts, np.float64)
        sums[tasks] += profile.centroids.astype(np.float64) * own[:, None]
        counts[tasks] += own
        inertia[tasks] += own * profile.second_moments
    held = counts[:, None] > 0
    means = np.where(held, sums / np.where(held, counts[:, None], 1), before).astype(np.float32)
    ends = np.cumsum([len(centroids) for centroids in starts])[:-1]
    moved = np.split(means, ends)
    totals: NDArray[np.float64] = np.array([part.sum() for part in np.split(inertia, ends)])
    unseen = [not part.any() for part in np.split(counts, ends)]  # too few clients for any sum
    totals[unseen] = np.inf
    best = np.argsort(totals, kind="stable")[: (len(starts) + 1) // 2]
    return tuple(moved[start] for start in best)


def is_settled(before: Sequence[FloatArray], after: Sequence[FloatArray]) -> bool:
    """Whether there is one start, and an iteration has not moved its centroids."""
    return len(before) == 1 and bool(np.abs(after[0] - before[0]).max() <= SETTLED)
