"""Profiles as vectors that are summed over clients, and the profile of all clients together."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    DescribeEmbeddings,
    ProfileOrder,
)
from fedrouter.routing.types import Scatter, TaskGeometry, TaskProfile
from fedrouter.routing.whitening import LARGEST
from fedrouter.secure_aggregation.fixed_point import Part, VectorLayout
from fedrouter.serialization import upper_triangle

EMBEDDINGS, INERTIA, SCATTER = "embeddings", "inertia", "scatter"  # vectors of all clients
MAX_SAMPLES = 100_000  # of a client in a vector; sums of more are clipped
LARGEST_EMBEDDING = 1e4  # a number in an embedding
LARGEST_STEP = 64.0  # a squared distance between standardized vectors, projected ones included
LARGEST_DISTANCE = 1e5  # a squared distance; in the whitened space about the dimension
_Values = NDArray[np.float64]


def profile_layouts(order: ProfileOrder, dimension: int) -> dict[str, VectorLayout]:
    """The vectors of a profile; but for `DescribeEmbeddings`, of standardized embeddings.

    Args:
        order: the order for it.
        dimension: of embeddings.
    """
    if isinstance(order, DescribeEmbeddings):
        second = _part(dimension, LARGEST_EMBEDDING**2)
        return {EMBEDDINGS: _layout(_part(1), _part(dimension, LARGEST_EMBEDDING), second)}
    means = _part(1), _part(dimension)  # standardized vectors have length 1
    if isinstance(order, AssignToStarts):
        clusters = {_cluster(i): _layout(*means) for i in range(sum(map(len, order.starts)))}
        return {INERTIA: _layout(_part(len(order.starts), LARGEST_STEP)), **clusters}
    if isinstance(order, AssignToNearest):
        moments = _part(1, LARGEST_DISTANCE), _part(1, LARGEST_DISTANCE**2)
        layouts = {task: _layout(*means, *moments) for task in order.geometry.tasks}
        if order.scatter:
            size = min(dimension, LARGEST)
            products = _part(size * (size + 1) // 2, LARGEST_STEP)
            layouts[SCATTER] = _layout(_part(1), products, _part(1, LARGEST_STEP**2))
        return layouts
    raise ValueError(f"a profile by {type(order).__name__} is no sum")


def _part(size: int, bound: float = 1.0) -> Part:
    """Values of which each sample contributes at most `bound`."""
    return Part(size, MAX_SAMPLES * bound)


def _layout(*parts: Part) -> VectorLayout:
    return VectorLayout(64, parts)


def _cluster(index: int) -> str:
    """The vector of one cluster among those of all starts."""
    return f"cluster-{index:04d}"


def profile_vectors(
    order: ProfileOrder, profile: TaskProfile, projected: _Values
) -> dict[str, _Values]:
    """The vectors of a client's profile; of clusters and tasks only those that it has.

    Args:
        order: the order that the profile answers.
        profile: the profile.
        projected: the projection of scatters, shape (d, r).
    """
    counts = np.array(profile.counts, np.float64)
    sums = profile.centroids.astype(np.float64) * counts[:, None]
    if isinstance(order, DescribeEmbeddings):
        assert profile.variances is not None, "the order asks for variances"
        squares = profile.variances + np.square(profile.centroids[0].astype(np.float64))
        return {EMBEDDINGS: np.concatenate([counts, sums[0], counts[0] * squares])}
    second = counts * profile.second_moments
    if isinstance(order, AssignToStarts):
        ends = np.cumsum([len(centroids) for centroids in order.starts])
        start = np.searchsorted(ends, profile.tasks, side="right")
        inertia = np.bincount(start, weights=second, minlength=len(ends))
        clusters = {
            _cluster(task): np.append(count, own)
            for task, count, own in zip(profile.tasks, counts, sums, strict=True)
        }
        return {INERTIA: inertia, **clusters}
    assert isinstance(order, AssignToNearest), "checked by profile_layouts"
    moments = np.stack([second, counts * profile.fourth_moments], axis=1)
    vectors = {
        order.geometry.tasks[task]: np.concatenate([[count], own, both])
        for task, count, own, both in zip(profile.tasks, counts, sums, moments, strict=True)
    }
    if profile.scatter is not None:
        sent = order.geometry.centroids[list(profile.tasks)]
        rest = (profile.centroids.astype(np.float64) - sent) @ projected
        around = profile.scatter.products + upper_triangle((rest.T * counts) @ rest)
        vectors[SCATTER] = np.concatenate([[counts.sum()], around, [profile.scatter.fourth]])
    return vectors


def summed_profile(
    order: ProfileOrder, sums: Mapping[str, _Values], dimension: int, client: int
) -> TaskProfile | None:
    """The profile of all clients together, from the sums of their vectors; clusters and tasks whose
    sum was not opened are missing. None if nothing was opened.

    The scatter is around the new centroids.

    Args:
        order: the order that all clients answered.
        sums: vector -> its sum.
        dimension: of embeddings.
        client: the id in the profile.
    """
    if isinstance(order, DescribeEmbeddings):
        return _described(sums[EMBEDDINGS], dimension, client) if EMBEDDINGS in sums else None
    if isinstance(order, AssignToStarts):
        names = [_cluster(i) for i in range(sum(map(len, order.starts)))]
    elif isinstance(order, AssignToNearest):
        names = list(order.geometry.tasks)
    else:
        raise ValueError(f"a profile by {type(order).__name__} is no sum")
    tasks = [t for t, name in enumerate(names) if name in sums and round(sums[name][0]) > 0]
    if not tasks or (isinstance(order, AssignToStarts) and INERTIA not in sums):
        return None
    rows = np.stack([sums[names[task]] for task in tasks])
    counts = rows[:, 0].round()
    centroids = rows[:, 1 : dimension + 1] / counts[:, None]
    second, fourth = np.zeros(len(tasks)), np.zeros(len(tasks))
    scatter = None
    if isinstance(order, AssignToStarts):
        second = _shared_inertia(order, sums[INERTIA], tasks, counts)
    if isinstance(order, AssignToNearest):
        second, fourth = (rows[:, dimension + 1 :] / counts[:, None]).clip(min=0).T
        if SCATTER in sums:
            scatter = _scatter(order.geometry, sums[SCATTER], tasks, centroids, counts)
    return TaskProfile(
        client,
        centroids.astype(np.float32),
        tuple(map(int, counts)),
        tuple(second.tolist()),
        tuple(fourth.tolist()),
        tasks=tuple(tasks),
        scatter=scatter,
    )


def _shared_inertia(
    order: AssignToStarts, inertia: _Values, tasks: Sequence[int], counts: _Values
) -> _Values:
    """The inertia of each start, divided among its clusters that were opened."""
    ends = np.cumsum([len(centroids) for centroids in order.starts])
    start = np.searchsorted(ends, tasks, side="right")
    return np.asarray(inertia.clip(min=0)[start] / np.bincount(start, weights=counts)[start])


def _described(total: _Values, dimension: int, client: int) -> TaskProfile:
    count = total[0].round()
    mean, squares = total[1 : dimension + 1] / count, total[dimension + 1 :] / count
    variances = (squares - np.square(mean)).clip(min=0)
    moment = float(variances.sum())
    return TaskProfile(
        client,
        mean[None].astype(np.float32),
        (int(count),),
        (moment,),
        (moment**2,),
        variances=variances.astype(np.float32),
    )


def _scatter(
    geometry: TaskGeometry,
    total: _Values,
    tasks: Sequence[int],
    centroids: _Values,
    counts: _Values,
) -> Scatter:
    """The sum of the scatters, moved from the centroids that clients were sent to the new ones:
    around its mean g, n samples have a scatter that is n (g - g0)(g - g0)^T smaller than around g0.

    Samples of tasks that were not opened are in the sum too; it is scaled to those of the others.
    """
    products, fourth = total[1:-1], float(total[-1])
    shifts = centroids - geometry.centroids[list(tasks)]
    size = int((2 * len(products)) ** 0.5)
    if shifts.shape[1] == size:  # else the shift is small against the projection's error
        products = products - upper_triangle((shifts.T * counts) @ shifts)
    share = counts.sum() / max(total[0].round(), 1)
    return Scatter((products * share).astype(np.float32), max(0.0, fourth * share))
