"""Inspection of a finished run: its centroids, and the local prompts nearest to them."""

import numpy as np
from numpy.typing import NDArray

from fedrouter.data.loading import load_splits
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.progress import Progress
from fedrouter.routing.clustering import squared_distances
from fedrouter.routing.types import TaskGeometry


def centroid_distances(geometry: TaskGeometry) -> NDArray[np.float64]:
    """The distances between all centroids in the router's space, shape (T, T)."""
    return np.sqrt(squared_distances(geometry.centroids, geometry.centroids, geometry.space))


def nearest_prompts(model: RoutedModel, number: int, progress: Progress) -> dict[str, list[str]]:
    """For each task, the `number` prompts nearest to its centroid among those routed to it.

    A run folder holds no prompts: they are read from the training data that the run's configuration
    names, which must be on this machine.

    Args:
        model: the finished run; it has a router.
        number: the number of prompts for each task.
        progress: receives the progress.

    Raises:
        DataError: the training data are not on this machine.
    """
    assert model.router is not None, "there are no tasks without a router"
    prompts = list(
        dict.fromkeys(
            row.instruction for row in load_splits(model.config.data, model.config.seed).train
        )
    )
    progress.phase("embed the local prompts", len(prompts))
    routes = model.router.route(model.embed(prompts, progress.advance))
    chosen = np.array(routes.tasks)
    near = {}
    for t, task in enumerate(model.router.geometry.tasks):
        own = np.flatnonzero(chosen == task)
        order = own[np.argsort(routes.distances[own, t], kind="stable")]
        near[task] = [prompts[i] for i in order[:number]]
    return near
