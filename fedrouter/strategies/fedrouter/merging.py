"""Which tasks are one; and what becomes of the server's state when tasks merge or are born."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.routing.clustering import MERGE_THRESHOLD, squared_distances
from fedrouter.routing.history import Event
from fedrouter.strategies.aggregation import WeightedMean
from fedrouter.strategies.base import ServerState
from fedrouter.types import FloatArray

MEMORISABLE = 100  # samples that an adapter may learn by heart
NEVER = 1e9  # a cost at which nothing is merged


def merge_groups(relative_regret: NDArray[np.float64]) -> list[list[int]]:
    """Tasks in groups, in each of which every adapter serves every other task.

    Complete linkage on the larger of C[t, u] and C[u, t], cut at 0.25: what does not serve both
    ways is not merged, nor is what nobody compared.

    Args:
        costs: C, shape (T, T): see `automatic.relative_regret`.
    """
    from sklearn.cluster import AgglomerativeClustering

    if len(relative_regret) < 2:
        return [[t] for t in range(len(relative_regret))]
    apart = np.maximum(relative_regret, relative_regret.T).clip(max=NEVER)
    np.fill_diagonal(apart, 0)
    linkage = AgglomerativeClustering(
        n_clusters=None,
        distance_threshold=MERGE_THRESHOLD,
        metric="precomputed",
        linkage="complete",
    )
    labels = linkage.fit_predict(apart)
    return [np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(labels.tolist())]


def merge_small(
    groups: list[list[int]], relative_regret: NDArray[np.float64], sizes: Sequence[int]
) -> list[list[int]]:
    """The same groups, after the small have gone to larger ones whose adapters serve them.

    A group of a few samples learns them by heart. Its adapter serves nobody else, and still it is
    no task of its own where another one's serves it as well. From the smallest on, each of less
    than 100 samples goes to the group of at least twice as many that serves it best, if one does:
    each of its members for a mean cost of at most 0.25, over the adapters that were compared.

    Args:
        groups: of tasks that are one already.
        costs: C, shape (T, T): see `automatic.relative_regret`.
        sizes: samples of each of the T tasks.
    """

    def samples(group: list[int]) -> int:
        return sum(sizes[t] for t in group)

    def cost(small: list[int], large: list[int]) -> float:
        served = np.ma.masked_invalid(relative_regret[np.ix_(small, large)]).mean(axis=1)
        return float(np.ma.filled(served, np.inf).max())

    left = dict(enumerate(groups))
    for g in sorted(left, key=lambda g: samples(groups[g])):
        own = samples(left[g])
        larger = [h for h in left if own < MEMORISABLE and samples(left[h]) >= 2 * own]
        best = min(larger, key=lambda h: cost(left[g], groups[h]), default=g)
        if best != g and cost(left[g], groups[best]) <= MERGE_THRESHOLD:
            left[best] = left[best] + left.pop(g)
    return list(left.values())


def merge_tasks(state: ServerState, groups: Sequence[Sequence[int]]) -> ServerState:
    """The state in which each group of tasks is one: the eldest, whose adapter and centroid are the
    means of all, weighted by samples."""
    assert state.router is not None
    geometry = state.router.geometry
    weight = sizes(state)
    into: dict[str, str] = {}
    adapters, centroids = dict(state.adapters), geometry.centroids.copy()
    for group in groups:
        names = [geometry.tasks[t] for t in group]
        eldest = min(names)
        mean = WeightedMean()
        for name in names:
            mean.add(adapters.pop(name), max(1, weight[name]))
            into[name] = eldest
        adapters[eldest] = mean.result()
        shares = [max(1, weight[name]) for name in names]
        centroids[geometry.tasks.index(eldest)] = np.average(
            geometry.centroids[list(group)], axis=0, weights=shares
        )
    events = tuple(
        Event(state.round, "merged", name, eldest)
        for name, eldest in sorted(into.items())
        if name != eldest
    )
    state = replace(
        state,
        router=replace(state.router, geometry=replace(geometry, centroids=centroids)),
        assignment={
            client: tuple(into[task] for task in tasks)
            for client, tasks in state.assignment.items()
        },
        history=state.history + events,
    )
    return _only(replace(state, adapters=adapters), sorted(adapters))


def create_task(
    state: ServerState, client: int, local_task: int, centroid: FloatArray
) -> ServerState:
    """The state with a new task, of one local task of a client. Its adapter is a copy of the
    nearest task's."""
    assert state.router is not None
    geometry = state.router.geometry
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
        state,
        router=replace(state.router, geometry=wider),
        adapters={**state.adapters, name: state.adapters[nearest]},
        assignment={**state.assignment, client: tuple(own)},
        history=(*state.history, Event(state.round, "created", name, nearest)),
    )


def drop_empty(state: ServerState, but: Collection[str] = ()) -> ServerState:
    """The state without the tasks that no client has samples of, `but` some."""
    weight = sizes(state)
    kept = [task for task in state.adapters if weight[task] or task in but]
    gone = [task for task in state.adapters if task not in kept]
    events = tuple(Event(state.round, "removed", task) for task in gone)
    return replace(_only(state, kept), history=state.history + events)


def sizes(state: ServerState) -> Counter[str]:
    """How many training samples each task has."""
    weight: Counter[str] = Counter()
    for client, tasks in state.assignment.items():
        for task, count in zip(tasks, state.counts[client], strict=True):
            weight[task] += count
    return weight


def _only(state: ServerState, names: Sequence[str]) -> ServerState:
    """The state with these tasks and no others, in order of their names."""
    assert state.router is not None
    geometry = state.router.geometry
    kept = [t for t, task in enumerate(geometry.tasks) if task in names]
    tasks = tuple(geometry.tasks[t] for t in kept)
    left = replace(geometry, tasks=tasks, centroids=geometry.centroids[kept])
    return replace(
        state,
        adapters={task: state.adapters[task] for task in tasks},
        router=replace(state.router, geometry=left),
    )
