"""FedRouter with differential privacy: tasks from noisy sums, for given numbers of tasks.

Embeddings are standardized by public statistics, those of prompts that are nobody's
(`server.privacy.public_profile`), so that they are vectors of length 1 around a public center.
Clients send the sums of their vectors; the server clips each client's part, adds the parts up, and
adds noise once:

1. The sum of all vectors: the center is moved to their mean. Where the clients' prompts are unlike
   the public ones, all vectors point in nearly the same direction before.
2. The sums by nearest centroid, from random directions on: the centroids are the sums scaled to
   length 1. This is spherical K-means (Dhillon and Modha, "Concept Decompositions for Large Sparse
   Text Data", 2001). It needs no counts: the noise of a sum in many dimensions lengthens all sums
   alike.
3. Clients assign their samples to the nearest centroids, for which the server computes nothing.

Statistics of distances are constants: those of the data would need more of the budget than they
are worth.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrouter.config import ResolvedConfig
from fedrouter.privacy.budget import PrivacyLedger
from fedrouter.privacy.mechanism import noisy_sum
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.private_sums import SENSITIVITY, part_of_sums
from fedrouter.protocol.profile_orders import AssignToNearest, AssignToStarts, ProfileOrder
from fedrouter.protocol.sums import ALL_CLIENTS
from fedrouter.routing.federated_kmeans import standardization
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.seeding import generator
from fedrouter.strategies.fedrouter.late_clients import without_counts
from fedrouter.strategies.fedrouter.paper import FedRouter
from fedrouter.strategies.fedrouter.refined import ASSIGN, LLOYD
from fedrouter.strategies.fedrouter.state import TaskState, task_names
from fedrouter.types import AdapterWeights, FloatArray

CENTER = "center"  # the exchange in which the center is moved
ITERATIONS = 3  # of K-means; each spends a part of the budget
# Squared distances of vectors of length 1 are at most 4, and 2 if they are unrelated. With these,
# the out-of-distribution score is at most 4, the default threshold: no prompt exceeds it.
MEAN_DISTANCE, DISTANCE_DEVIATION = 2.0, 0.5


class PrivateFedRouter(FedRouter):
    """FedRouter whose centroids, distances and adapters are noisy sums over clients.

    What it sends to clients, and what a run releases of it, depends on their data only through
    these sums, except for the assignment of each client's own local tasks.
    """

    private = True
    public_profile = True
    profile_releases: ClassVar[int] = 1 + ITERATIONS

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config)
        assert isinstance(config.clustering.n_global, int), "checked by the base class"
        self.number_of_tasks = config.clustering.n_global

    def profile(self, clients: Sequence[int]) -> list[ClientRequest]:
        """No client is asked before there is a public center."""
        return []

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> TaskState:
        """Random directions in the standardized space.

        Args:
            profiles: the public profile.
            initial: the initial weights of every adapter.
            base_fingerprint: the base model's fingerprint.
        """
        standard = standardization(list(profiles))
        draws = generator(self.config.seed, "private starts")
        starts = _unit(draws.normal(size=(self.number_of_tasks, len(standard.mean))))
        geometry = TaskGeometry(
            task_names(len(starts)),
            starts,
            mean=MEAN_DISTANCE,
            deviation=DISTANCE_DEVIATION,
            variance=1 / starts.shape[1],
            standardization=standard,
        )
        return self._first_state(
            dict.fromkeys(geometry.tasks, initial),
            base_fingerprint,
            router=Router(geometry, base_fingerprint),
            pending=(CENTER, *(LLOYD,) * ITERATIONS, ASSIGN),
        )

    @property
    def expected_clients(self) -> float:
        """The number of clients that are expected to train each task's adapter, if tasks are
        equally common; at least 1."""
        n_local = self.config.clustering.n_local
        assert isinstance(n_local, int), "checked by the base class"
        share = min(1.0, n_local / self.number_of_tasks)
        return max(1.0, super().expected_clients * share)

    def auxiliary_requests(self, state: TaskState, clients: Sequence[int]) -> list[ClientRequest]:
        """The requests of the first pending exchange, to every client."""
        order = self.late_join_order(state)
        if state.pending[0] != ASSIGN:
            order = AssignToStarts((self._start(state),), state.geometry.standardization)
        return [ClientRequest(client, state.round, profile=order) for client in clients]

    def apply_auxiliary(self, state: TaskState, replies: Iterable[ClientReply]) -> TaskState:
        """The state after the first pending exchange.

        Raises:
            PrivacyError: it would exceed the privacy budget.
        """
        exchange, start = state.pending[0], self._start(state)
        state = replace(state, pending=state.pending[1:])
        profiles = [reply.profile for reply in replies if reply.profile is not None]
        if exchange == ASSIGN:
            return self.add_assigned(state, profiles)
        assert self.privacy is not None and self.privacy.profile is not None
        assert state.privacy is not None, "a state of this run"
        ledger = state.privacy.with_release(self.privacy, self.privacy.profile)
        state = replace(state, privacy=ledger)
        found = self._noisy_sums(ledger, profiles, start.shape)
        if found is None:
            return state
        sums, number = found
        geometry = replace(state.geometry, centroids=_unit(sums))
        if exchange == CENTER:
            geometry = moved_center(state.geometry, sums[0] / max(1, number))
        return state.with_geometry(geometry)

    def late_join_order(self, state: TaskState) -> ProfileOrder:
        """A client assigns its samples to the nearest tasks."""
        return AssignToNearest(state.geometry)

    def _start(self, state: TaskState) -> FloatArray:
        """The centroids whose sums are asked for: one for all vectors, or those of the tasks."""
        centroids = state.geometry.centroids
        return np.zeros_like(centroids[:1]) if state.pending[0] == CENTER else centroids

    def _noisy_sums(
        self, ledger: PrivacyLedger, profiles: Sequence[TaskProfile], shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float64], int] | None:
        """The noisy sums of the clients' vectors, and the number of clients or samples; None if
        there are none.

        An exchange that is repeated after a crash has the same noise only if the same clients
        answer: the difference of two sums with the same noise would tell of the others.
        """
        assert self.privacy is not None and self.privacy.profile is not None
        total, unit = np.zeros(shape), self.config.privacy.unit
        for profile in sorted(profiles, key=lambda profile: profile.client):
            total += part_of_sums(profile, shape, unit)
        answered = sorted(profile.client for profile in profiles)
        number = len(answered)
        if unit == "sample":
            number = sum(sum(profile.counts) for profile in profiles)
        path: tuple[str | int, ...] = ("sums", len(ledger.multipliers), *answered)
        return noisy_sum(total, SENSITIVITY, self.privacy.profile, ledger.secret, *path), number


class SummedPrivateFedRouter(PrivateFedRouter):
    """The same from sums of which the server sees no client's part, and to which clients have added
    the noise (`privacy.secure_aggregation`)."""

    private = True

    def _noisy_sums(
        self, ledger: PrivacyLedger, profiles: Sequence[TaskProfile], shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float64], int] | None:
        """The sums in the profile of all clients together; None if they were not opened."""
        for profile in profiles:
            if profile.client == ALL_CLIENTS:
                return profile.centroids.astype(np.float64), profile.counts[0]
        return None

    def add_assigned(self, state: TaskState, profiles: Sequence[TaskProfile]) -> TaskState:
        """The state with more clients, of which the numbers of samples are not known."""
        return super().add_assigned(state, without_counts(profiles))


def moved_center(geometry: TaskGeometry, mean: NDArray[np.float64]) -> TaskGeometry:
    """The geometry with its center moved to the mean of the standardized vectors.

    Before they are scaled to length 1, standardized vectors of d dimensions have a length of about
    sqrt(d).

    Args:
        geometry: the geometry before.
        mean: shape (d,).
    """
    before = geometry.standardization
    assert before is not None, "set by `init`"
    shift = before.deviation * mean * len(mean) ** 0.5
    center = (before.mean + shift).astype(np.float32)
    return replace(geometry, standardization=replace(before, mean=center))


def _unit(vectors: NDArray[np.float64]) -> FloatArray:
    """The vectors scaled to length 1, float32; none may be zero."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
