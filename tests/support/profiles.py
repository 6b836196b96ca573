"""What clients answer to profile orders, in the words of their definitions."""

import numpy as np
from numpy.typing import NDArray

from fedrouter.routing.clustering import group, squared_distances
from fedrouter.routing.types import TaskProfile
from fedrouter.types import FloatArray


def described(client: int, points: NDArray[np.float64]) -> TaskProfile:
    one = group(points, np.zeros(len(points), int))
    moments = tuple(one.second_moments.tolist()), tuple(one.fourth_moments.tolist())
    variances = points.var(axis=0).astype(np.float32)
    return TaskProfile(client, one.centroids, (len(points),), *moments, variances=variances)


def assigned(
    client: int, points: NDArray[np.float64], starts: tuple[FloatArray, ...]
) -> TaskProfile:
    """What a client answers to `AssignToStarts`, in the words of its definition."""
    tasks, centroids, counts, moments = [], [], [], []
    for s, start in enumerate(starts):
        distances = squared_distances(points, start)
        for t in range(len(start)):
            mine = distances.argmin(axis=1) == t
            if mine.any():
                tasks.append(sum(map(len, starts[:s])) + t)
                centroids.append(points[mine].mean(axis=0))
                counts.append(int(mine.sum()))
                moments.append(float(distances[mine, t].mean()))
    return TaskProfile(
        client,
        np.stack(centroids).astype(np.float32),
        tuple(counts),
        tuple(moments),
        tuple(m * m for m in moments),
        tasks=tuple(tasks),
    )
