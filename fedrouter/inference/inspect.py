"""Inspection of a finished run: its centroids, and the local prompts nearest to them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedrouter.data.rows import Row
from fedrouter.progress import Progress
from fedrouter.routing.clustering import squared_distances
from fedrouter.routing.types import TaskGeometry

if TYPE_CHECKING:  # it imports torch
    from fedrouter.inference.routed_model import RoutedModel


def centroid_distances(geometry: TaskGeometry) -> NDArray[np.float64]:
    """The distances between all centroids in the router's space, shape (T, T)."""
    return np.sqrt(squared_distances(geometry.centroids, geometry.centroids, geometry.space))


def nearest_prompts(
    model: "RoutedModel", rows: Sequence[Row], number: int, progress: Progress
) -> dict[str, list[str]]:
    """For each task, the `number` prompts nearest to its centroid among those routed to it.

    Args:
        model: the finished run; it has a router.
        rows: the rows whose prompts these are, as by `run_splits`: a run folder has no training
            rows.
        number: the number of prompts for each task.
        progress: receives the progress.
    """
    assert model.router is not None, "there are no tasks without a router"
    prompts = list(dict.fromkeys(row.instruction for row in rows))
    progress.phase("embed the local prompts", len(prompts))
    routes = model.router.route(model.embed(prompts, progress.advance))
    chosen = np.array(routes.tasks)
    near = {}
    for t, task in enumerate(model.router.geometry.tasks):
        own = np.flatnonzero(chosen == task)
        order = own[np.argsort(routes.distances[own, t], kind="stable")]
        near[task] = [prompts[i] for i in order[:number]]
    return near
