"""The server's state of a method that has one adapter per global task."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedrouter.routing.bounds import bounded_counts, bounded_profile
from fedrouter.routing.clustering import GlobalTasks
from fedrouter.routing.history import Event
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.routing.whitening import distance_moments
from fedrouter.strategies.state import ServerState
from fedrouter.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class TaskState(ServerState):
    """The global tasks, their adapters, and the assignment of each client's local tasks.

    Attributes:
        router: the router; its tasks are the keys of `adapters`, in the same order.
        assignment: client -> the global task of each of its local tasks.
        counts: client -> the number of samples of each of its local tasks.
        labels: true task -> global task; empty except for the oracle.
        history: the tasks that were created, merged and removed, in order.
        starts: the centroids of each start of K-means over all clients, while it runs.
        sample_bound: the number of samples for which a client counts at most in sums over clients;
            None: unbounded.
    """

    router: Router
    assignment: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Event, ...] = ()
    starts: tuple[FloatArray, ...] = ()
    sample_bound: int | None = None

    @property
    def geometry(self) -> TaskGeometry:
        """The geometry of the global tasks."""
        return self.router.geometry

    def own_tasks(self, client: int) -> tuple[str, ...]:
        """The global tasks that a client's local tasks belong to, in order of id."""
        return tuple(sorted(set(self.assignment.get(client, ()))))

    def sizes(self) -> Counter[str]:
        """The number of training samples of each task, of which each client counts for at most
        `sample_bound`."""
        sizes: Counter[str] = Counter()
        for client, tasks in self.assignment.items():
            counts = self.counts[client]
            if self.sample_bound is not None:
                counts = bounded_counts(counts, self.sample_bound)
            for task, count in zip(tasks, counts, strict=True):
                sizes[task] += count
        return sizes

    def bounded(self, profile: TaskProfile, parts: int = 1) -> TaskProfile:
        """The profile with a bounded part in sums over clients (`bounds.bounded_profile`).

        Args:
            profile: as a client sent it.
            parts: how often its local tasks count each sample.
        """
        if self.sample_bound is None:
            return profile
        unit = self.geometry.standardization is not None
        return bounded_profile(profile, parts * self.sample_bound, unit)

    def with_geometry(self, geometry: TaskGeometry) -> "TaskState":
        """The state with another geometry."""
        return replace(self, router=replace(self.router, geometry=geometry))

    def without_clients(self, clients: Collection[int]) -> "TaskState":
        """The state without the profiles of some clients."""
        return replace(
            self,
            assignment={c: tasks for c, tasks in self.assignment.items() if c not in clients},
            counts={c: counts for c, counts in self.counts.items() if c not in clients},
        )


def task_names(number: int) -> tuple[str, ...]:
    """The names of the first `number` global tasks."""
    return tuple(f"task-{t:02d}" for t in range(number))


def initial_geometry(joined: GlobalTasks, profiles: Sequence[TaskProfile]) -> TaskGeometry:
    """The geometry of global tasks in the space of raw embeddings.

    Args:
        joined: the global tasks.
        profiles: the profiles of all clients, in any order.
    """
    apart = np.concatenate(
        [
            np.square(p.centroids - joined.centroids[list(joined.assignment[p.client])]).sum(1)
            for p in profiles
        ]
    )
    moments = distance_moments(profiles, apart.astype(np.float64))
    return TaskGeometry(task_names(len(joined.centroids)), joined.centroids, *moments)
