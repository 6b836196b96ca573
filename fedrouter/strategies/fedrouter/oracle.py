"""The oracle: FedRouter with the true tasks instead of clustering and routing."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from fedrouter.config import register_strategy
from fedrouter.protocol.profile_orders import GroupByLabel, ProfileOrder
from fedrouter.protocol.serving_rules import Serving, TrueTask
from fedrouter.routing.clustering import GlobalTasks
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies.fedrouter.paper import FedRouter
from fedrouter.strategies.fedrouter.state import TaskState
from fedrouter.types import AdapterWeights


@register_strategy("oracle")
class Oracle(FedRouter):
    """FedRouter with the true tasks instead of clustering and routing: an upper bound.

    Its router's centroids are the means of the true tasks' samples.
    """

    reference = True
    from_sums = False

    def profile_order(self) -> ProfileOrder:
        """Step 0, on the clients: group the samples by true task."""
        return GroupByLabel()

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> TaskState:
        """Step 0, on the server: one global task for each true task, in order of their names."""
        profiles = list(profiles)
        state = super().init(profiles, initial, base_fingerprint)
        names = sorted({name for profile in profiles for name in profile.names})
        return replace(state, labels=dict(zip(names, state.adapters, strict=True)))

    def join(self, profiles: Sequence[TaskProfile]) -> GlobalTasks:
        """Local tasks of the same name form a global task with g_t = sum n_ij c_ij / sum n_ij."""
        ordered = sorted(profiles, key=lambda profile: profile.client)
        names = sorted({name for profile in ordered for name in profile.names})
        local = np.concatenate([profile.centroids for profile in ordered]).astype(np.float64)
        counts = np.concatenate([profile.counts for profile in ordered])
        labels = np.array([names.index(name) for profile in ordered for name in profile.names])
        centroids = [
            np.average(local[labels == t], axis=0, weights=counts[labels == t])
            for t in range(len(names))
        ]
        return GlobalTasks(
            centroids=np.stack(centroids).astype(np.float32),
            assignment={
                profile.client: tuple(names.index(name) for name in profile.names)
                for profile in ordered
            },
        )

    def add_client(self, state: TaskState, profile: TaskProfile) -> TaskState:
        """Assign a new client's local tasks to their true tasks; a true task that no earlier
        profile names shares the adapter of the nearest one."""
        state = super().add_client(state, profile)
        nearest = dict(zip(profile.names, state.assignment[profile.client], strict=True))
        labels = {**nearest, **state.labels}
        tasks = tuple(labels[name] for name in profile.names)
        assignment = {**state.assignment, profile.client: tasks}
        return replace(state, labels=labels, assignment=assignment)

    def serve(self, state: TaskState, client: int) -> Serving:
        """Step 3: the adapter of the prompt's true task."""
        return TrueTask(state.labels)
