"""FedRouter with distances in a standardized or whitened space (beyond the paper).

After step 0 the tasks' centroids and the linear transform in which distances are taken are
re-estimated in a few exchanges of profiles. The server computes both from sums over clients
(`routing.whitening`); clients assign their samples to the nearest task in that space and report
the sums for the new assignment. This is hard EM of a mixture of Gaussians with a shared covariance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from fedrouter.config import ResolvedConfig
from fedrouter.protocol.messages import (
    AssignToNearest,
    ClientReply,
    ClientRequest,
    ClusterPrompts,
    ProfileOrder,
)
from fedrouter.routing.search import SEARCH
from fedrouter.routing.types import TaskProfile
from fedrouter.routing.whitening import ScatterSum, fit_geometry, projection, sum_scatters
from fedrouter.strategies.fedrouter.paper import FedRouter
from fedrouter.strategies.fedrouter.state import TaskState
from fedrouter.types import AdapterWeights

ASSIGN = "assign"  # the exchange in which clients assign their samples to the nearest task


class RefinedFedRouter(FedRouter):
    """FedRouter whose task geometry is refined after step 0, in `clustering.space`."""

    refinements: ClassVar[int] = SEARCH.refinements

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config)
        self.space = config.clustering.space
        self.scatter = self.space != "raw"

    def profile_order(self) -> ProfileOrder:
        """Step 0, on the clients: K-means and, unless the space is raw, the scatter."""
        return ClusterPrompts(self.scatter)

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> TaskState:
        """Step 0, on the server, and the first estimate of the transform."""
        profiles, scatters = sum_scatters(profiles)
        state = super().init(profiles, initial, base_fingerprint)
        state = replace(state, pending=(ASSIGN,) * self.refinements)
        return self._refit(state, profiles, scatters)

    def assign_order(self, state: TaskState) -> ProfileOrder:
        """The order to assign samples to the nearest task under the current geometry."""
        return AssignToNearest(state.geometry, scatter=self.scatter)

    def auxiliary_requests(self, state: TaskState, clients: Sequence[int]) -> list[ClientRequest]:
        """Request a new assignment of samples from every client."""
        order = self.assign_order(state)
        return [ClientRequest(client, state.round, profile=order) for client in clients]

    def apply_auxiliary(self, state: TaskState, replies: Iterable[ClientReply]) -> TaskState:
        """Re-estimate the geometry. A client that did not answer is profiled again when it next
        takes part."""
        profiles, scatters = sum_scatters(r.profile for r in replies if r.profile is not None)
        if not profiles:
            return replace(state, pending=())
        state = replace(state, assignment={}, counts={}, pending=state.pending[1:])
        for profile in profiles:
            state = self.add_client(state, profile)
        return self._refit(state, profiles, scatters)

    def late_join_order(self, state: TaskState) -> ProfileOrder:
        """A client that joins late assigns its samples to the existing tasks."""
        return AssignToNearest(state.geometry)

    def _refit(
        self, state: TaskState, profiles: Sequence[TaskProfile], scatters: ScatterSum
    ) -> TaskState:
        """The state with the geometry re-estimated from the assigned local tasks."""
        geometry = state.geometry
        number = {task: t for t, task in enumerate(geometry.tasks)}
        assigned = [[number[task] for task in state.assignment[p.client]] for p in profiles]
        projected = projection(geometry.centroids.shape[1], self.config.seed)
        return state.with_geometry(
            fit_geometry(
                self.space, profiles, scatters, assigned, before=geometry, projected=projected
            )
        )
