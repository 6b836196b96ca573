"""FedRouter with K-means over all clients, in a standardized or whitened space (beyond the paper).

Step 0 becomes a few exchanges of profiles. The server adds up what clients report, and sees no
sample:

1. mean and variances of the embeddings, by which they are standardized;
2. each client's K-means of its standardized embeddings, from which the server draws starts;
3. Lloyd's iterations of K-means over all clients from these starts (`routing.federated_kmeans`);
4. clients assign their samples to the nearest task, and the server re-estimates centroids and the
   whitening transform (`routing.whitening`), a few times. This is hard EM of a mixture of Gaussians
   with a shared covariance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from fedrouter.config import ResolvedConfig
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    ClusterPrompts,
    DescribeEmbeddings,
    ProfileOrder,
)
from fedrouter.routing.bounds import bounded_moments, bounded_shifts
from fedrouter.routing.federated_kmeans import (
    ITERATIONS,
    initial_centroids,
    is_settled,
    lloyd_step,
    standardization,
)
from fedrouter.routing.router import Router
from fedrouter.routing.search import SEARCH
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.routing.whitening import ScatterSum, fit_geometry, projection, sum_scatters
from fedrouter.seeding import derive_seed
from fedrouter.strategies.fedrouter.paper import FedRouter
from fedrouter.strategies.fedrouter.state import TaskState, task_names
from fedrouter.types import AdapterWeights, FloatArray

CLUSTER = "cluster"  # the exchange in which clients cluster their samples
LLOYD = "lloyd"  # the exchange of one iteration of K-means over all clients
ASSIGN = "assign"  # the exchange in which clients assign their samples to the nearest task


class RefinedFedRouter(FedRouter):
    """FedRouter whose tasks are found over all clients, in `clustering.space`."""

    refinements: ClassVar[int] = SEARCH.refinements

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config)
        self.standardized = config.clustering.space != "raw"
        self.scatter = config.clustering.space == "whitened"

    def profile_order(self) -> ProfileOrder:
        """The mean and variances of the client's embeddings."""
        return DescribeEmbeddings()

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> TaskState:
        """The standardization, and a single task until the exchanges that follow find more."""
        profiles = list(profiles)
        standard = standardization(profiles, robust=self.bounded)
        mean = standard.mean[None]
        geometry = TaskGeometry(task_names(1), mean, mean=0.0, deviation=0.0, variance=0.0)
        if self.standardized:
            centers = np.zeros_like(mean)  # where the mean is after standardization
            geometry = replace(geometry, centroids=centers, standardization=standard)
        return self._first_state(
            dict.fromkeys(geometry.tasks, initial),
            base_fingerprint,
            router=Router(geometry, base_fingerprint),
            sample_bound=self.sample_bound(profiles),
            pending=(CLUSTER, *(LLOYD,) * ITERATIONS, *(ASSIGN,) * self.refinements),
        )

    def number_of_tasks(self, profiles: Sequence[TaskProfile]) -> int:
        """The number of global tasks, given the clients' own clusters."""
        number = self.config.clustering.n_global
        assert isinstance(number, int), 'n_global = "auto" is for TaskDiscovery'
        return number

    def assign_order(self, state: TaskState) -> ProfileOrder:
        """The order to assign samples to the nearest task under the current geometry."""
        return AssignToNearest(state.geometry, scatter=self.scatter)

    def auxiliary_requests(self, state: TaskState, clients: Sequence[int]) -> list[ClientRequest]:
        """The requests of the first pending exchange, to every client."""
        order = self._order(state)
        return [ClientRequest(client, state.round, profile=order) for client in clients]

    def apply_auxiliary(self, state: TaskState, replies: Iterable[ClientReply]) -> TaskState:
        """The state after the first pending exchange."""
        exchange, state = state.pending[0], replace(state, pending=state.pending[1:])
        profiles = (reply.profile for reply in replies if reply.profile is not None)
        if exchange == CLUSTER:
            return self._start(state, list(profiles))
        if exchange == LLOYD:
            return self._iterate(state, profiles)
        return self._assign(state, profiles)

    def late_join_order(self, state: TaskState) -> ProfileOrder:
        """A client that joins late assigns its samples to the existing tasks."""
        return AssignToNearest(state.geometry)

    def _order(self, state: TaskState) -> ProfileOrder:
        """The order of the first pending exchange."""
        if state.pending[0] == CLUSTER:
            return ClusterPrompts(state.geometry.standardization)
        if state.pending[0] == LLOYD:
            return AssignToStarts(state.starts, state.geometry.standardization)
        return self.assign_order(state)

    def _start(self, state: TaskState, profiles: Sequence[TaskProfile]) -> TaskState:
        """Draw the starts of K-means over all clients."""
        if not profiles:
            return replace(state, pending=())
        seed = derive_seed(self.config.seed, "join")
        number, counted = self.number_of_tasks(profiles), [state.bounded(p) for p in profiles]
        starts = initial_centroids(counted, number, seed, bounded=self.bounded)
        return replace(state, starts=starts)

    def _iterate(self, state: TaskState, profiles: Iterable[TaskProfile]) -> TaskState:
        """One iteration of K-means; after the last, or when nothing moves any more, the best
        start's clusters become the tasks."""
        parts = len(state.starts)  # each counts all samples
        starts = lloyd_step(state.starts, (state.bounded(p, parts) for p in profiles))
        if is_settled(state.starts, starts):
            later = tuple(exchange for exchange in state.pending if exchange != LLOYD)
            state = replace(state, pending=later)
        if LLOYD in state.pending:
            return replace(state, starts=starts)
        return self._with_tasks(replace(state, starts=()), starts[0])

    def _with_tasks(self, state: TaskState, centroids: FloatArray) -> TaskState:
        """The state with new tasks, which all have the first one's adapter."""
        tasks = task_names(len(centroids))
        initial = state.adapters[state.geometry.tasks[0]]
        geometry = replace(state.geometry, tasks=tasks, centroids=centroids)
        return replace(state.with_geometry(geometry), adapters=dict.fromkeys(tasks, initial))

    def _assign(self, state: TaskState, profiles: Iterable[TaskProfile]) -> TaskState:
        """Re-estimate the geometry. A client that did not answer is profiled again when it next
        takes part: its local tasks may be those of an exchange that the server knows only half of.
        """
        counts: dict[int, tuple[int, ...]] = {}

        def counted(profile: TaskProfile) -> TaskProfile:
            counts[profile.client] = profile.counts
            return state.bounded(profile)

        kept, scatters = sum_scatters(map(counted, profiles))
        state = replace(state, assignment={}, counts={})
        if not kept:
            return replace(state, pending=())
        own = [replace(profile, counts=counts[profile.client]) for profile in kept]
        return self._refit(self.add_assigned(state, own), kept, scatters)

    def _refit(
        self, state: TaskState, profiles: Sequence[TaskProfile], scatters: ScatterSum
    ) -> TaskState:
        """The state with the geometry re-estimated from the assigned local tasks."""
        geometry = state.geometry
        assigned = [profile.tasks for profile in profiles]
        if self.bounded:
            profiles = bounded_moments(bounded_shifts(profiles, assigned, geometry.centroids))
        projected = projection(geometry.centroids.shape[1], self.config.seed)
        return state.with_geometry(
            fit_geometry(profiles, scatters, assigned, before=geometry, projected=projected)
        )
