"""FedRouter (arXiv 2604.00050): one adapter for each task found across the clients.

The steps carry the numbers of the method in the paper: 0 profile, 1 train, 2 aggregate (the mean
that all strategies share), 3 inference (`routing.Router` on the centroids that `serve` sends).

Beyond the paper, with `clustering.space` other than "raw": after step 0 centroids and space are
refined in a few exchanges. The server locates the tasks (`spaces.locate`), clients group their
samples by the nearest of them, in that space, and say where their groups lie.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from fedrouter.config import Config
from fedrouter.protocol.messages import (
    ClientReply,
    ClientRequest,
    ProfileOrder,
    RouteByTask,
    Serving,
    TrainOrder,
)
from fedrouter.routing.clustering import GlobalTasks, join, squared_distances
from fedrouter.routing.router import Router, policy
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.routing.whitening import (
    ScatterSum,
    distance_moments,
    locate,
    projection,
    sum_scatters,
)
from fedrouter.seeding import derive_seed
from fedrouter.strategies.base import ServerState, Strategy, forget, noting
from fedrouter.types import AdapterWeights

EXCHANGES = 3  # of profiles; the first gives most (docs/routing.md)
PLACE = "place"  # the exchange in which clients group their samples by the tasks as they lie


class FedRouter(Strategy):
    """The paper's method; `config` gives the numbers of tasks, the space, the rate, the steps."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.space = config.clustering.space or "raw"
        self.scatters = self.space != "raw"
        self.exchanges = EXCHANGES if self.scatters else 0

    @property
    def asks(self) -> ProfileOrder:
        """How the clients are to find their local tasks."""
        return ProfileOrder(scatter=self.scatters)

    def profile(self, clients: Sequence[int]) -> list[ClientRequest]:
        """Step 0, on the clients: embed the prompts, K-means them into local tasks."""
        return [ClientRequest(client, round=0, profile=self.asks) for client in clients]

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> ServerState:
        """Step 0, on the server: every global task gets an adapter, which starts as `initial`."""
        profiles, scatters = sum_scatters(profiles)
        joined = self.join(profiles)
        tasks = tuple(f"task-{t:02d}" for t in range(len(joined.centroids)))
        apart = np.concatenate(
            [
                np.square(p.centroids - joined.centroids[list(joined.assignment[p.client])]).sum(1)
                for p in profiles
            ]
        )
        geometry = TaskGeometry(
            tasks, joined.centroids, *distance_moments(profiles, apart.astype(np.float64))
        )
        state = ServerState(
            round=0,
            base=base_fingerprint,
            adapters=dict.fromkeys(tasks, initial),
            router=Router(geometry, base_fingerprint),
            assignment={
                client: tuple(tasks[t] for t in found)
                for client, found in joined.assignment.items()
            },
            counts={profile.client: profile.counts for profile in profiles},
            pending=(PLACE,) * self.exchanges,
        )
        return self._located(state, profiles, scatters) if self.exchanges else state

    def auxiliary_requests(self, state: ServerState, clients: Sequence[int]) -> list[ClientRequest]:
        """Step 0, refined: group the samples by the tasks as they now lie."""
        order = self.placing(state)
        return [ClientRequest(client, state.round, profile=order) for client in clients]

    def placing(self, state: ServerState) -> ProfileOrder:
        """How the clients are to do that."""
        assert state.router is not None
        return ProfileOrder(geometry=state.router.geometry, scatter=self.scatters)

    def apply_auxiliary(self, state: ServerState, replies: Iterable[ClientReply]) -> ServerState:
        """Step 0, refined: the tasks where the groups lie. A client that did not answer is asked
        anew when it takes part."""
        profiles, scatters = sum_scatters(r.profile for r in replies if r.profile is not None)
        if not profiles:
            return replace(state, pending=())
        state = replace(state, assignment={}, counts={}, pending=state.pending[1:])
        for profile in profiles:
            state = self.add_client(state, profile)
        return self._located(state, profiles, scatters)

    def _located(
        self, state: ServerState, profiles: Sequence[TaskProfile], scatters: ScatterSum
    ) -> ServerState:
        """The state with the router where the samples of the assigned local tasks lie."""
        assert state.router is not None
        geometry = state.router.geometry
        number = {task: t for t, task in enumerate(geometry.tasks)}
        assigned = [[number[task] for task in state.assignment[p.client]] for p in profiles]
        projected = projection(geometry.centroids.shape[1], self.config.seed)
        found = locate(
            self.space, profiles, scatters, assigned, before=geometry.centroids, projected=projected
        )
        located = TaskGeometry(
            tasks=geometry.tasks,
            centroids=found.centroids,
            mean=found.mean,
            deviation=found.deviation,
            variance=found.variance,
            space=found.space,
        )
        return replace(state, router=replace(state.router, geometry=located))

    def join(self, profiles: Sequence[TaskProfile]) -> GlobalTasks:
        """Step 0, on the server: K-means all local centroids c_ij into global tasks g_t;
        assignment(i, j) = argmin_t ||c_ij - g_t||."""
        number = self.config.clustering.n_global
        assert isinstance(number, int), "the experiment resolves n_global, or finds it"
        return join(profiles, number, derive_seed(self.config.seed, "join"))

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Step 1: for each local task, the adapter of its global task on its own samples.

        Where the client has more or fewer of them than `clustering.n_local`, they share the batches
        of n_local tasks, so that the budget stays; what does not divide goes round in turn.
        """
        tasks = state.assignment[client]
        number, told = len(tasks), self.config.clustering.n_local
        total = self.config.training.steps * (told if isinstance(told, int) else number)
        shares = [total // number + ((j + round) % number < total % number) for j in range(number)]
        return tuple(
            TrainOrder((task,), steps, local_task=j)
            for j, (task, steps) in enumerate(zip(tasks, shares, strict=True))
            if steps
        )

    def arrival(self, state: ServerState) -> ProfileOrder:
        """How a client that joins late is to find its local tasks."""
        assert state.router is not None
        return ProfileOrder(geometry=state.router.geometry) if self.exchanges else self.asks

    def plan(self, state: ServerState, round: int, clients: Sequence[int]) -> list[ClientRequest]:
        """Step 1; a client that has joined since is asked for its profile first."""
        asks = self.arrival(state)
        known = super().plan(state, round, [c for c in clients if c in state.assignment])
        new = [ClientRequest(c, round, profile=asks) for c in clients if c not in state.assignment]
        return sorted([*known, *new], key=lambda task: task.client)

    def aggregate(
        self, state: ServerState, round: int, replies: Iterable[ClientReply]
    ) -> ServerState:
        """Step 2: A_t = sum n_ij A_ij / sum n_ij over the returned local tasks assigned to t.
        Clients that have joined are admitted; one whose data changed is as one that has not."""
        profiles: list[TaskProfile] = []
        changed: list[int] = []

        def note(reply: ClientReply) -> None:
            if reply.profile is not None:
                profiles.append(reply.profile)
            if reply.changed:
                changed.append(reply.client)

        state = forget(super().aggregate(state, round, noting(replies, note)), changed)
        for profile in profiles:
            state = self.add_client(state, profile)
        return state

    def add_client(self, state: ServerState, profile: TaskProfile) -> ServerState:
        """The state with a client that has joined: its local tasks go to the nearest tasks, where
        they are not grouped by them already."""
        assert state.router is not None
        geometry = state.router.geometry
        distances = squared_distances(profile.centroids, geometry.centroids, geometry.space)
        nearest = profile.tasks or distances.argmin(axis=1)
        tasks = tuple(geometry.tasks[t] for t in nearest)
        return replace(
            state,
            assignment={**state.assignment, profile.client: tasks},
            counts={**state.counts, profile.client: profile.counts},
        )

    def serve(self, state: ServerState, client: int) -> Serving:
        """Step 3: the nearest centroid, among all tasks or the client's own; a client whose tasks
        are unknown has all for its own."""
        assert state.router is not None
        geometry = state.router.geometry
        own = state.own_tasks(client) or geometry.tasks
        return RouteByTask(geometry, own, policy(self.config.router))
