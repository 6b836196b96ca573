"""Which tasks are merged, and the server's state after tasks are merged, created or removed."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.routing.clustering import squared_distances
from fedrouter.routing.history import Event
from fedrouter.routing.search import SEARCH
from fedrouter.strategies.aggregation import WeightedMean
from fedrouter.strategies.fedrouter.state import TaskState
from fedrouter.types import FloatArray

NEVER = 1e9  # stands for an infinite regret: tasks that were not compared are not merged


def merge_groups(regret: NDArray[np.float64]) -> list[list[int]]:
    """Groups of tasks with interchangeable adapters.

    Complete linkage on max(R[t, u], R[u, t]), cut at `TaskSearch.merge_threshold`: two tasks are
    merged only if they were compared and each adapter serves the other task.

    Args:
        regret: R, shape (T, T), as from `comparing.relative_regret`.
    """
    from sklearn.cluster import AgglomerativeClustering

    if len(regret) < 2:
        return [[t] for t in range(len(regret))]
    apart = np.maximum(regret, regret.T).clip(max=NEVER)
    np.fill_diagonal(apart, 0)
    linkage = AgglomerativeClustering(
        n_clusters=None,
        distance_threshold=SEARCH.merge_threshold,
        metric="precomputed",
        linkage="complete",
    )
    labels = linkage.fit_predict(apart)
    return [np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(labels.tolist())]


def merge_small(
    groups: list[list[int]], regret: NDArray[np.float64], sizes: Sequence[int]
) -> list[list[int]]:
    """The groups after small ones were merged into larger ones whose adapters serve them.

    An adapter can memorize a small group, and then serves no other task, although another task's
    adapter may serve the group as well as its own. In ascending order of size, each group of fewer
    than `TaskSearch.memorizable` samples is merged into the group of at least twice its size that
    serves it best, if the mean regret of each of its tasks, over the adapters that were compared,
    is at most `TaskSearch.merge_threshold`.

    Args:
        groups: the result of `merge_groups`.
        regret: R, shape (T, T), as from `comparing.relative_regret`.
        sizes: the number of samples of each of the T tasks.
    """

    def samples(group: list[int]) -> int:
        return sum(sizes[t] for t in group)

    def mean_regret(small: list[int], large: list[int]) -> float:
        served = np.ma.masked_invalid(regret[np.ix_(small, large)]).mean(axis=1)
        return float(np.ma.filled(served, np.inf).max())

    left = dict(enumerate(groups))
    for g in sorted(left, key=lambda g: samples(groups[g])):
        own = samples(left[g])
        small = own < SEARCH.memorizable
        larger = [h for h in left if small and samples(left[h]) >= 2 * own]
        best = min(larger, key=lambda h: mean_regret(left[g], groups[h]), default=g)
        if best != g and mean_regret(left[g], groups[best]) <= SEARCH.merge_threshold:
            left[best] = left[best] + left.pop(g)
    return list(left.values())


def merge_tasks(state: TaskState, groups: Sequence[Sequence[int]]) -> TaskState:
    """Merge each group of tasks into its task of the lowest id, whose adapter and centroid become
    the means over the group, weighted by samples."""
    geometry, sizes = state.geometry, state.sizes()
    into: dict[str, str] = {}
    adapters, centroids = dict(state.adapters), geometry.centroids.copy()
    for group in groups:
        names = [geometry.tasks[t] for t in group]
        eldest = min(names)
        mean = WeightedMean()
        for name in names:
            mean.add(adapters.pop(name), max(1, sizes[name]))
            into[name] = eldest
        adapters[eldest] = mean.result()
        shares = [max(1, sizes[name]) for name in names]
        centroids[geometry.tasks.index(eldest)] = np.average(
            geometry.centroids[list(group)], axis=0, weights=shares
        )
    events = tuple(
        Event(state.round, "merged", name, eldest)
        for name, eldest in sorted(into.items())
        if name != eldest
    )
    state = replace(
        state.with_geometry(replace(geometry, centroids=centroids)),
        adapters=adapters,
        assignment={
            client: tuple(into[task] for task in tasks)
            for client, tasks in state.assignment.items()
        },
        history=state.history + events,
    )
    return _select(state, adapters)


def create_task(state: TaskState, client: int, local_task: int, centroid: FloatArray) -> TaskState:
    """Create a task from one local task of a client. Its adapter starts as a copy of the nearest
    task's adapter.

    Args:
        state: the state before.
        client: the client's id.
        local_task: the index of its local task.
        centroid: of that local task, shape (d,).
    """
    geometry = state.geometry
    distances = squared_distances(centroid[None], geometry.centroids, geometry.space)
    nearest = geometry.tasks[int(distances.argmin())]
    ever = [*state.adapters, *(event.task for event in state.history)]
    name = f"task-{1 + max(int(task.rpartition('-')[2]) for task in ever):02d}"
    wider = replace(
        geometry,
        tasks=(*geometry.tasks, name),
        centroids=np.concatenate([geometry.centroids, centroid[None]]),
    )
    own = list(state.assignment[client])
    own[local_task] = name
    return replace(
        state.with_geometry(wider),
        adapters={**state.adapters, name: state.adapters[nearest]},
        assignment={**state.assignment, client: tuple(own)},
        history=(*state.history, Event(state.round, "created", name, nearest)),
    )


def drop_empty(state: TaskState, keep: Collection[str] = ()) -> TaskState:
    """Remove the tasks without samples, except those in `keep`."""
    sizes = state.sizes()
    kept = [task for task in state.adapters if sizes[task] or task in keep]
    gone = [task for task in state.adapters if task not in kept]
    events = tuple(Event(state.round, "removed", task) for task in gone)
    return replace(_select(state, kept), history=state.history + events)


def _select(state: TaskState, names: Collection[str]) -> TaskState:
    """The state restricted to some tasks, in the order of the geometry."""
    geometry = state.geometry
    kept = [t for t, task in enumerate(geometry.tasks) if task in names]
    tasks = tuple(geometry.tasks[t] for t in kept)
    left = replace(geometry, tasks=tasks, centroids=geometry.centroids[kept])
    return replace(
        state.with_geometry(left), adapters={task: state.adapters[task] for task in tasks}
    )
