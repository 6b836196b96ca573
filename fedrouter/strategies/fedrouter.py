"""FedRouter (arXiv 2604.00050): one adapter for each task found across the clients.

The steps carry the numbers of the method in the paper: 0 profile, 1 train, 2 aggregate (the mean
that all strategies share), 3 inference (`routing.Router` on the centroids that `serve` sends).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from fedrouter.clustering import GlobalTasks, join, squared_distances
from fedrouter.messages import (
    ClientReply,
    ClientTask,
    ProfileOrder,
    Routed,
    Serving,
    TaskProfile,
    TrainOrder,
    Weights,
)
from fedrouter.routing import Router
from fedrouter.seeding import derive_seed
from fedrouter.strategies.base import ServerState, Strategy, noting


class FedRouter(Strategy):
    """The paper's method; `config` gives the numbers of tasks, the rate and the steps.

    Attributes:
        asks: how the clients are to find their local tasks.
    """

    asks: ClassVar[ProfileOrder] = ProfileOrder()

    def profile(self, clients: Sequence[int]) -> list[ClientTask]:
        """Step 0, on the clients: embed the prompts, K-means them into local tasks."""
        return [ClientTask(client, round=0, profile=self.asks) for client in clients]

    def init(
        self, profiles: Sequence[TaskProfile], initial: Weights, base_fingerprint: str
    ) -> ServerState:
        """Step 0, on the server: every global task gets an adapter, which starts as `initial`."""
        joined = self.join(profiles)
        tasks = tuple(f"task-{t:02d}" for t in range(len(joined.centroids)))
        samples = sum(sum(profile.counts) for profile in profiles)
        scatter = sum(
            n * spread
            for profile in profiles
            for n, spread in zip(profile.counts, profile.spreads, strict=True)
        )
        return ServerState(
            round=0,
            base=base_fingerprint,
            adapters=dict.fromkeys(tasks, initial),
            router=Router(tasks, joined.centroids, scatter / samples, base_fingerprint),
            assignment={
                client: tuple(tasks[t] for t in found)
                for client, found in joined.assignment.items()
            },
            counts={profile.client: profile.counts for profile in profiles},
        )

    def join(self, profiles: Sequence[TaskProfile]) -> GlobalTasks:
        """Step 0, on the server: K-means all local centroids c_ij into global tasks g_t;
        assignment(i, j) = argmin_t ||c_ij - g_t||."""
        number = self.config.clustering.n_global
        assert number is not None, "the experiment resolves n_global before it makes a strategy"
        return join(profiles, number, derive_seed(self.config.seed, "join"))

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Step 1: for each local task, the adapter of its global task on its own samples."""
        return tuple(
            TrainOrder((task,), self.config.training.steps, local_task=j)
            for j, task in enumerate(state.assignment[client])
        )

    def plan(self, state: ServerState, round: int, clients: Sequence[int]) -> list[ClientTask]:
        """Step 1; a client that has joined since is asked for its profile first."""
        known = super().plan(state, round, [c for c in clients if c in state.assignment])
        new = [
            ClientTask(c, round, profile=self.asks) for c in clients if c not in state.assignment
        ]
        return sorted([*known, *new], key=lambda task: task.client)

    def aggregate(
        self, state: ServerState, round: int, replies: Iterable[ClientReply]
    ) -> ServerState:
        """Step 2: A_t = sum n_ij A_ij / sum n_ij over the returned local tasks assigned to t.
        Clients that have joined are admitted."""
        profiles: list[TaskProfile] = []

        def note(reply: ClientReply) -> None:
            if reply.profile is not None:
                profiles.append(reply.profile)

        state = super().aggregate(state, round, noting(replies, note))
        for profile in profiles:
            state = self.admit(state, profile)
        return state

    def admit(self, state: ServerState, profile: TaskProfile) -> ServerState:
        """The state with a client that has joined: its local tasks go to the nearest tasks."""
        assert state.router is not None
        nearest = squared_distances(profile.centroids, state.router.centroids).argmin(axis=1)
        tasks = tuple(state.router.tasks[t] for t in nearest)
        return replace(
            state,
            assignment={**state.assignment, profile.client: tasks},
            counts={**state.counts, profile.client: profile.counts},
        )

    def serve(self, state: ServerState, client: int) -> Serving:
        """Step 3: the nearest centroid, among all tasks or the client's own; a client whose tasks
        are unknown has all for its own."""
        assert state.router is not None
        tasks = state.router.tasks
        return Routed(tasks, state.router.centroids, state.own_tasks(client) or tasks)
