"""The state of a method whose adapters belong to tasks."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedrouter.routing.clustering import GlobalTasks
from fedrouter.routing.history import Event
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.routing.whitening import distance_moments
from fedrouter.strategies.base import ServerState


@dataclass(frozen=True, kw_only=True)
class TaskState(ServerState):
    """The global tasks, their adapters, and which of them each client holds.

    Attributes:
        router: where the global tasks lie. Their names are those of `adapters`, in the same order.
        assignment: client -> the global task of each of its local tasks.
        counts: client -> the number of samples of each of its local tasks.
        labels: true task -> global task; empty unless the method is told the true tasks.
        history: which tasks were created, merged and removed.
    """

    router: Router
    assignment: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Event, ...] = ()

    @property
    def geometry(self) -> TaskGeometry:
        """Where the global tasks lie."""
        return self.router.geometry

    def own_tasks(self, client: int) -> tuple[str, ...]:
        """The global tasks that a client's local tasks belong to, in order of id."""
        return tuple(sorted(set(self.assignment.get(client, ()))))

    def sizes(self) -> Counter[str]:
        """The number of training samples of each task."""
        sizes: Counter[str] = Counter()
        for client, tasks in self.assignment.items():
            for task, count in zip(tasks, self.counts[client], strict=True):
                sizes[task] += count
        return sizes

    def with_geometry(self, geometry: TaskGeometry) -> "TaskState":
        """The state with its tasks at other places."""
        return replace(self, router=replace(self.router, geometry=geometry))

    def without_clients(self, clients: Collection[int]) -> "TaskState":
        """The state without the profiles of some clients."""
        return replace(
            self,
            assignment={c: tasks for c, tasks in self.assignment.items() if c not in clients},
            counts={c: counts for c, counts in self.counts.items() if c not in clients},
        )


def task_names(number: int) -> tuple[str, ...]:
    """The names of the first global tasks."""
    return tuple(f"task-{t:02d}" for t in range(number))


def initial_geometry(joined: GlobalTasks, profiles: Sequence[TaskProfile]) -> TaskGeometry:
    """Where the global tasks lie between embeddings as they are.

    Args:
        joined: the global tasks.
        profiles: of all clients, in the order in which they came.
    """
    apart = np.concatenate(
        [
            np.square(p.centroids - joined.centroids[list(joined.assignment[p.client])]).sum(1)
            for p in profiles
        ]
    )
    moments = distance_moments(profiles, apart.astype(np.float64))
    return TaskGeometry(task_names(len(joined.centroids)), joined.centroids, *moments)
