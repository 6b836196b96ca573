"""FedRouter from sums over clients alone (`privacy.secure_aggregation`; beyond the paper).

Of each client the server learns which global tasks it has, which it must know to send it their
adapters. The starts of K-means over all clients, which otherwise come from clients' own clusters,
are drawn from a Gaussian with the covariance of all samples, a sum too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from fedrouter.protocol.messages import ClientReply
from fedrouter.protocol.profile_orders import AssignToNearest, ProfileOrder
from fedrouter.protocol.sums import ALL_CLIENTS
from fedrouter.routing.clustering import squared_distances
from fedrouter.routing.federated_kmeans import DRAWN_ITERATIONS, drawn_centroids
from fedrouter.routing.types import TaskProfile
from fedrouter.routing.whitening import projection, sum_scatters
from fedrouter.seeding import derive_seed
from fedrouter.serialization import symmetric_matrix
from fedrouter.strategies.fedrouter.late_clients import without_counts
from fedrouter.strategies.fedrouter.merging import merge_tasks
from fedrouter.strategies.fedrouter.refined import CLUSTER, LLOYD, RefinedFedRouter
from fedrouter.strategies.fedrouter.state import TaskState
from fedrouter.types import AdapterWeights

COVARIANCE = "covariance"  # the exchange of the covariance from which starts are drawn


class SummedFedRouter(RefinedFedRouter):
    """FedRouter of which the server sees sums over at least `privacy.min_clients` clients."""

    @property
    def bounded(self) -> bool:
        """Single clients cannot be compared with others."""
        return False

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> TaskState:
        """As in `RefinedFedRouter`, with the covariance in place of clients' own clusters."""
        state = super().init(_sums(profiles), initial, base_fingerprint)
        later = tuple(e for e in state.pending if e not in (CLUSTER, LLOYD))
        return replace(state, pending=(COVARIANCE, *(LLOYD,) * DRAWN_ITERATIONS, *later))

    def _order(self, state: TaskState) -> ProfileOrder:
        if state.pending[0] == COVARIANCE:
            return AssignToNearest(state.geometry, scatter=True)
        return super()._order(state)

    def apply_auxiliary(self, state: TaskState, replies: Iterable[ClientReply]) -> TaskState:
        """The state after the first pending exchange."""
        if state.pending[0] == COVARIANCE:
            profiles = [reply.profile for reply in replies if reply.profile is not None]
            return self._start(replace(state, pending=state.pending[1:]), _sums(profiles))
        return super().apply_auxiliary(state, replies)

    def _start(self, state: TaskState, profiles: Sequence[TaskProfile]) -> TaskState:
        """Draw the starts of K-means over all clients."""
        together = next(iter(profiles), None)
        if together is None or together.scatter is None:
            return replace(state, pending=())
        products = together.scatter.products.astype(np.float64)
        projected = projection(state.geometry.centroids.shape[1], self.config.seed)
        starts = drawn_centroids(
            symmetric_matrix(products) / sum(together.counts),
            projected,
            self.number_of_tasks(profiles),
            derive_seed(self.config.seed, "join"),
        )
        return replace(state, starts=starts)

    def _iterate(self, state: TaskState, profiles: Iterable[TaskProfile]) -> TaskState:
        return super()._iterate(state, _sums(profiles))

    def _assign(self, state: TaskState, profiles: Iterable[TaskProfile]) -> TaskState:
        """Re-estimate the geometry, and merge tasks that too few clients have."""
        known = list(profiles)
        state = self.add_assigned(replace(state, assignment={}, counts={}), known)
        if not state.assignment:
            return replace(state, pending=())
        kept, scatters = sum_scatters(_sums(known))
        if kept:
            state = _with_counts(self._refit(state, kept, scatters), kept[0])
        return merge_rare(state, self.config.privacy.min_clients)

    def add_assigned(self, state: TaskState, profiles: Sequence[TaskProfile]) -> TaskState:
        """The state with more clients, of which the numbers of samples are not known."""
        return super().add_assigned(state, without_counts(profiles))


def _sums(profiles: Iterable[TaskProfile]) -> list[TaskProfile]:
    """The profile of all clients together; empty if their sum was not opened."""
    return [profile for profile in profiles if profile.client == ALL_CLIENTS]


def _with_counts(state: TaskState, together: TaskProfile) -> TaskState:
    """The state with each task's number of samples divided equally among its clients: the server
    knows the sum only."""
    total = {
        state.geometry.tasks[t]: n for t, n in zip(together.tasks, together.counts, strict=True)
    }
    clients = Counter(task for tasks in state.assignment.values() for task in tasks)
    return replace(
        state,
        counts={
            client: tuple(total.get(task, 0) // clients[task] for task in tasks)
            for client, tasks in state.assignment.items()
        },
    )


def merge_rare(state: TaskState, least: int) -> TaskState:
    """Merge tasks that fewer than `least` clients have, one after another, the rarest first, into
    the nearest task."""
    geometry = state.geometry
    apart = squared_distances(geometry.centroids, geometry.centroids, geometry.space)
    np.fill_diagonal(apart, np.inf)
    groups = {t: [t] for t in range(len(geometry.tasks))}
    clients = {
        t: {client for client, tasks in state.assignment.items() if name in tasks}
        for t, name in enumerate(geometry.tasks)
    }
    while len(groups) > 1:
        rarest = min(groups, key=lambda t: len(clients[t]))
        if len(clients[rarest]) >= least:
            break
        others = [t for t in groups if t != rarest]
        near = min(others, key=lambda t: apart[np.ix_(groups[rarest], groups[t])].min())
        groups[near] += groups.pop(rarest)
        clients[near] |= clients.pop(rarest)
    return merge_tasks(state, list(groups.values())) if len(groups) < len(apart) else state
