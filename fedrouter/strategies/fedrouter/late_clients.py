"""Clients that join after the first round, or whose data changed: they are profiled first."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.profile_orders import ProfileOrder
from fedrouter.protocol.sums import ALL_CLIENTS
from fedrouter.routing.clustering import nearest_tasks
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies.base import Strategy, noting
from fedrouter.strategies.fedrouter.state import TaskState


class LateClients(Strategy[TaskState]):
    """A method with tasks that profiles clients without a profile (beyond the paper)."""

    state_type = TaskState
    by_task = True

    def late_join_order(self, state: TaskState) -> ProfileOrder:
        """The order by which a client that joins late computes its local tasks."""
        raise NotImplementedError

    def plan(self, state: TaskState, round: int, clients: Sequence[int]) -> list[ClientRequest]:
        """The requests of a round; a client without a profile is asked for one and does not
        train."""
        order = self.late_join_order(state)
        known = super().plan(state, round, [c for c in clients if c in state.assignment])
        new = [ClientRequest(c, round, profile=order) for c in clients if c not in state.assignment]
        return sorted([*known, *new], key=lambda request: request.client)

    def aggregate(self, state: TaskState, round: int, replies: Iterable[ClientReply]) -> TaskState:
        """The weighted means; clients that sent a profile are added, and a client whose data
        changed is removed, so that it is profiled again."""
        profiles: list[TaskProfile] = []
        changed: list[int] = []

        def note(reply: ClientReply) -> None:
            if reply.profile is not None:
                profiles.append(reply.profile)
            if reply.changed:
                changed.append(reply.client)

        state = super().aggregate(state, round, noting(replies, note)).without_clients(changed)
        for profile in profiles:
            state = self.add_client(state, profile)
        return state

    def add_assigned(self, state: TaskState, profiles: Sequence[TaskProfile]) -> TaskState:
        """The state with the clients of profiles that name a task for each local task, which may be
        thousands: all at once, since every state copies what is known of the other clients."""
        names = state.geometry.tasks
        tasks = {p.client: tuple(names[t] for t in p.tasks) for p in profiles}
        return replace(
            state,
            assignment={**state.assignment, **tasks},
            counts={**state.counts, **{p.client: p.counts for p in profiles}},
        )

    def add_client(self, state: TaskState, profile: TaskProfile) -> TaskState:
        """The state with one more client. Its local tasks are assigned to the tasks that the
        profile names or, if it names none, to the nearest ones."""
        tasks = profile.tasks or nearest_tasks(state.geometry, profile.centroids)
        return self.add_assigned(state, [replace(profile, tasks=tasks)])


def without_counts(profiles: Iterable[TaskProfile]) -> list[TaskProfile]:
    """The profiles of single clients under secure aggregation: which tasks each has is known, its
    numbers of samples are not."""
    return [
        replace(profile, counts=(0,) * len(profile.tasks))
        for profile in profiles
        if profile.client != ALL_CLIENTS
    ]
