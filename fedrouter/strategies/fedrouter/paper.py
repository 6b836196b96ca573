"""FedRouter (arXiv 2604.00050): one adapter for each task found across the clients.

The docstrings have the step numbers of the paper. The client's part of step 0 is
`client.profiling.cluster_prompts`, the mean of step 2 is `Strategy.aggregate`, and the router of
step 3 is `routing.router.route`.
"""

from collections.abc import Iterable, Sequence

from fedrouter.protocol.messages import ClientRequest, TrainOrder
from fedrouter.protocol.profile_orders import ClusterPrompts, ProfileOrder
from fedrouter.protocol.serving_rules import RouteByTask, Serving
from fedrouter.routing.bounds import bounded_profile, largest_total
from fedrouter.routing.clustering import GlobalTasks, join
from fedrouter.routing.router import Router, policy
from fedrouter.routing.types import TaskProfile
from fedrouter.seeding import derive_seed
from fedrouter.strategies.fedrouter.late_clients import LateClients
from fedrouter.strategies.fedrouter.state import TaskState, initial_geometry
from fedrouter.types import AdapterWeights


class FedRouter(LateClients):
    """The paper's method, for given numbers of local and global tasks."""

    def profile_order(self) -> ProfileOrder:
        """Step 0, on the clients: embed the prompts, K-means them into `n_local` clusters with
        centroids c_ij and counts n_ij."""
        return ClusterPrompts()

    def profile(self, clients: Sequence[int]) -> list[ClientRequest]:
        """Step 0: request a profile from every client."""
        return [ClientRequest(c, round=0, profile=self.profile_order()) for c in clients]

    def join(self, profiles: Sequence[TaskProfile]) -> GlobalTasks:
        """Step 0, on the server: K-means all c_ij into `n_global` clusters with centroids g_t;
        assignment(i, j) = argmin_t ||c_ij - g_t||."""
        number = self.config.clustering.n_global
        assert isinstance(number, int), 'n_global = "auto" is for TaskDiscovery'
        seed = derive_seed(self.config.seed, "join")
        return join(profiles, number, seed, bounded=self.bounded)

    @property
    def bounded(self) -> bool:
        """Whether each client's part in the joining of tasks and in sums over clients is bounded
        (beyond the paper)."""
        return self.config.aggregation.robust != "none"

    def sample_bound(self, profiles: Sequence[TaskProfile]) -> int | None:
        """The number of samples for which a client counts at most, given the first profiles."""
        return largest_total(profiles) if self.bounded and profiles else None

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> TaskState:
        """Step 0, on the server: every global task gets an adapter, which starts as `initial`."""
        profiles = list(profiles)
        joined = self.join(profiles)
        most = self.sample_bound(profiles)
        counted = profiles if most is None else [bounded_profile(p, most, False) for p in profiles]
        geometry = initial_geometry(joined, counted)
        return self._first_state(
            dict.fromkeys(geometry.tasks, initial),
            base_fingerprint,
            router=Router(geometry, base_fingerprint),
            assignment={
                client: tuple(geometry.tasks[t] for t in tasks)
                for client, tasks in joined.assignment.items()
            },
            counts={profile.client: profile.counts for profile in profiles},
            sample_bound=most,
        )

    def orders(self, state: TaskState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Step 1: for each local task, S steps on its samples from A_assignment(i, j).

        A client with more or fewer local tasks than `n_local` divides the steps of n_local tasks
        among them, so that all clients train the same number of steps; the remainder is assigned
        to the local tasks in turn.
        """
        tasks = state.assignment[client]
        number, n_local = len(tasks), self.config.clustering.n_local
        total = self.config.training.steps * (n_local if isinstance(n_local, int) else number)
        shares = [total // number + ((j + round) % number < total % number) for j in range(number)]
        return tuple(
            TrainOrder((task,), steps, local_task=j)
            for j, (task, steps) in enumerate(zip(tasks, shares, strict=True))
            if steps
        )

    # Step 2, inherited: A_t = sum n_ij A_ij / sum n_ij over the returned local tasks of task t.

    def serve(self, state: TaskState, client: int) -> Serving:
        """Step 3: a prompt x is answered by the adapter of argmin_t ||e(x) - g_t||, among all tasks
        or the client's own tasks; for a client without a profile these are all tasks."""
        own = state.own_tasks(client) or state.geometry.tasks
        return RouteByTask(state.geometry, own, policy(self.config.router))

    def late_join_order(self, state: TaskState) -> ProfileOrder:
        """Step 0 for a client that joins late: the same as for all others."""
        return self.profile_order()
