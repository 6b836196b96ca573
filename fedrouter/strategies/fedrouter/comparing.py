"""Which tasks have interchangeable adapters, by the losses that clients report.

Several clients are asked about each task, and the median of what they say counts. What one client
alone says about a task that others hold too is not enough to merge it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import ClientReply, ClientRequest, ComparedLosses, Comparison
from fedrouter.routing.clustering import squared_distances
from fedrouter.routing.search import SEARCH
from fedrouter.strategies.fedrouter.state import TaskState


def compare_requests(state: TaskState, clients: Sequence[int]) -> list[ClientRequest]:
    """Ask for every task's losses with its own adapter and those of its neighbors, on samples of
    the clients that have most of the task, up to three."""
    comparisons: defaultdict[int, list[Comparison]] = defaultdict(list)
    for task, others in neighbors(state).items():
        holders = [client for client in clients if task in state.assignment[client]]
        count = {c: state.counts[c][state.assignment[c].index(task)] for c in holders}
        for client in sorted(holders, key=lambda c: (-count[c], c))[: SEARCH.compared_clients]:
            local_task = state.assignment[client].index(task)
            comparisons[client].append(Comparison(local_task, (task, *others)))
    return [
        ClientRequest(
            client,
            state.round,
            compare=tuple(orders),
            adapters={
                task: state.adapters[task]
                for task in sorted({name for order in orders for name in order.adapters})
            },
        )
        for client, orders in sorted(comparisons.items())
    ]


def neighbors(state: TaskState) -> dict[str, list[str]]:
    """For each task, its nearest tasks and the tasks that have it among their nearest."""
    geometry = state.geometry
    distances = squared_distances(geometry.centroids, geometry.centroids, geometry.space)
    np.fill_diagonal(distances, np.inf)
    number = min(SEARCH.neighbors, len(distances) - 1)
    near = np.zeros(distances.shape, bool)
    np.put_along_axis(near, distances.argsort(axis=1)[:, :number], True, axis=1)
    return {
        task: [geometry.tasks[u] for u in np.flatnonzero(row)]
        for task, row in zip(geometry.tasks, near | near.T, strict=True)
    }


def relative_regret(state: TaskState, replies: Iterable[ClientReply]) -> NDArray[np.float64]:
    """R[t, u]: the increase of task t's loss under adapter u, relative to the improvement of its
    own adapter over the base model; shape (T, T).

    A client c that reported on t says R_c[t, u] = max(0, L_u - L_t) / max(0, L - L_t), with L_u its
    loss with the adapter of u and L that of the base model. R is the median over clients, the upper
    one of two, and infinity if nobody reported, or a single one of several clients with the task.
    """
    names = state.geometry.tasks
    said: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    for reply in replies:
        for one in reply.losses:
            task = state.assignment[reply.client][one.local_task]
            for other, regret in _regrets(task, one).items():
                said[names.index(task), names.index(other)].append(regret)
    result = np.full((len(names), len(names)), np.inf)
    for (t, u), regrets in said.items():
        holders = sum(names[t] in tasks for tasks in state.assignment.values())
        if len(regrets) >= min(2, holders):
            result[t, u] = sorted(regrets)[len(regrets) // 2]
    return result


def _regrets(task: str, losses: ComparedLosses) -> dict[str, float]:
    """What one client says: adapter -> relative regret; 0 for an adapter that is as good as the
    task's own, infinity for a worse one if the own adapter gives nothing."""
    own = losses.adapters[task]
    gain = max(0.0, losses.base - own)
    return {
        other: 0.0 if loss <= own else (loss - own) / gain if gain > 0 else float("inf")
        for other, loss in losses.adapters.items()
    }
