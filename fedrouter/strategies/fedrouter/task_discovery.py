"""FedRouter that finds the number of tasks (`clustering.n_global = "auto"`; beyond the paper).

Distances between embeddings do not determine the number: a task may consist of many clusters of
prompts. The utility of adapters does: two clusters belong to one task if the adapter of each serves
the other as well as its own adapter does.

Training therefore starts with more tasks than needed. After rounds 1, 2, 4, 8, ... clients
report the losses of neighboring tasks' adapters on some of their samples (forward passes only).
The server merges tasks whose adapters are interchangeable, and small tasks that another adapter
serves as well. After rounds 1 and 2, clients also reassign samples to whichever of the nearest
tasks' adapters serves them clearly better, responses included; then the geometry is refined as in
`RefinedFedRouter`.

A client that joins late, or whose data changed, may have samples outside all tasks. They become new
tasks, which are compared in the same way after their first round.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from fedrouter.protocol.messages import ClientReply, ClientRequest, TrainOrder
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    DetectNewTasks,
    ProfileOrder,
    ReassignByLoss,
)
from fedrouter.routing.clustering import nearest_tasks
from fedrouter.routing.search import SEARCH
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies.fedrouter.comparing import compare_requests, relative_regret
from fedrouter.strategies.fedrouter.merging import (
    create_task,
    drop_empty,
    merge_groups,
    merge_small,
    merge_tasks,
)
from fedrouter.strategies.fedrouter.refined import ASSIGN, CLUSTER, LLOYD, RefinedFedRouter
from fedrouter.strategies.fedrouter.state import TaskState

COMPARE = "compare"  # the exchange in which clients report losses
REASSIGN = "reassign"  # the exchange in which clients reassign samples by loss


class TaskDiscovery(RefinedFedRouter):
    """FedRouter that merges and creates tasks while it trains them."""

    refinements: ClassVar[int] = 2  # the first tasks are provisional

    def number_of_tasks(self, profiles: Sequence[TaskProfile]) -> int:
        """More global tasks than there are true ones, each of two or more local tasks on
        average."""
        local = sum(len(profile.counts) for profile in profiles)
        return max(1, min(SEARCH.max_initial_tasks, local // 2))

    def orders(self, state: TaskState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Step 1. In the first round, with about two clusters for each task, each gets half of the
        steps; a local task never gets more steps than it has samples."""
        counts, share = state.counts[client], 2 if round == 1 else 1
        return tuple(
            replace(order, steps=min(max(1, order.steps // share), counts[order.local_task]))
            for order in super().orders(state, round, client)
            if order.local_task is not None
        )

    def aggregate(self, state: TaskState, round: int, replies: Iterable[ClientReply]) -> TaskState:
        """Step 2. Tasks are compared after rounds 1, 2, 4, 8, ... except the last; from round 8 on
        only if some were created or merged since half as many rounds."""
        state = super().aggregate(state, round, replies)
        power_of_two = round & (round - 1) == 0
        recent = any(event.round >= round // 2 for event in state.history)
        unsettled = round <= SEARCH.settled_round or recent
        compared = (power_of_two and unsettled) or _has_new_tasks(state)
        last = round == self.config.federation.rounds
        return replace(state, pending=(COMPARE,)) if compared and not last else state

    def late_join_order(self, state: TaskState) -> ProfileOrder:
        """A client that joins late may bring new tasks."""
        return DetectNewTasks(state.geometry)

    def add_client(self, state: TaskState, profile: TaskProfile) -> TaskState:
        """The state with one more client and the new tasks that its profile reports, as long as the
        client has no more than `TaskSearch.max_new_tasks` to itself; other local tasks are assigned
        to the nearest tasks."""
        new = [j for j, task in enumerate(profile.tasks) if task < 0]
        if not new:
            return super().add_client(state, profile)
        new = new[: max(0, SEARCH.max_new_tasks - _unshared_births(state, profile.client))]
        nearest = nearest_tasks(state.geometry, profile.centroids)
        pairs = zip(profile.tasks, nearest, strict=True)
        known = tuple(near if task < 0 else task for task, near in pairs)
        state = super().add_client(state, replace(profile, tasks=known))
        for local_task in new:
            state = create_task(state, profile.client, local_task, profile.centroids[local_task])
        return state

    def auxiliary_requests(self, state: TaskState, clients: Sequence[int]) -> list[ClientRequest]:
        """The requests of the first pending exchange."""
        known = [client for client in clients if client in state.assignment]
        if state.pending[0] == COMPARE:
            return compare_requests(state, known)
        if state.pending[0] == REASSIGN:
            return [self._reassign_request(state, client) for client in known]
        return super().auxiliary_requests(state, clients)

    def apply_auxiliary(self, state: TaskState, replies: Iterable[ClientReply]) -> TaskState:
        """Merge tasks, or re-estimate their geometry.

        In the first rounds a task without samples is removed; later it is kept.
        """
        exchange = state.pending[0]
        if exchange == COMPARE:
            return self._apply_comparison(state, replies)
        after = super().apply_auxiliary(state, replies)
        if exchange in (CLUSTER, LLOYD) or state.round > SEARCH.reassign_rounds:
            return after
        silent = state.assignment.keys() - after.assignment.keys()
        return drop_empty(after, {task for client in silent for task in state.assignment[client]})

    def assign_order(self, state: TaskState) -> ProfileOrder:
        """As in `RefinedFedRouter`; of the initial tasks, a client keeps only those of which it has
        enough samples to compare adapters."""
        first = state.round < SEARCH.reassign_rounds
        min_samples = SEARCH.min_initial_samples if first else 1
        return AssignToNearest(state.geometry, min_samples, self.scatter)

    def _apply_comparison(self, state: TaskState, replies: Iterable[ClientReply]) -> TaskState:
        regret = relative_regret(state, replies)
        groups = merge_groups(regret)
        # After one round an adapter has learnt little more than the form of the answers.
        if state.round >= SEARCH.reassign_rounds:
            sizes = state.sizes()
            groups = merge_small(groups, regret, [sizes[task] for task in state.adapters])
        after = merge_tasks(state, groups)
        if state.round <= SEARCH.reassign_rounds or _has_new_tasks(after):
            return replace(after, pending=(REASSIGN, ASSIGN))
        merged = len(after.adapters) < len(state.adapters)
        return replace(after, pending=(ASSIGN,) if merged else ())

    def _reassign_request(self, state: TaskState, client: int) -> ClientRequest:
        own = state.own_tasks(client)
        order = ReassignByLoss(state.geometry, own, self.scatter)
        adapters = {task: state.adapters[task] for task in own}
        return ClientRequest(client, state.round, profile=order, adapters=adapters)


def _has_new_tasks(state: TaskState) -> bool:
    """Whether a task has just been trained for its first round."""
    created = (event for event in state.history if event.kind == "created")
    return any(event.round == state.round - 1 for event in created)


def _unshared_births(state: TaskState, client: int) -> int:
    """The number of tasks created in the run that no other client has."""
    created = {event.task for event in state.history if event.kind == "created"}
    others = {task for c, own in state.assignment.items() if c != client for task in own}
    return len((created & state.adapters.keys()) - others)
