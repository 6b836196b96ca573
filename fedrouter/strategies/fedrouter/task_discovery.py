"""FedRouter where nobody says how many tasks there are (`clustering.n_global = "auto"`).

Geometry does not tell: a task may fall into many clumps of prompts. What can tell is utility: two
groups of prompts are one task when the adapter of each serves the other as well as its own does.

So there are more groups than tasks to begin with. After rounds 1, 2, 4, 8, ... (in the end only as
long as tasks still merge) clients report the losses of neighbouring groups' adapters on samples of
their own (forward passes only), and the server merges what is interchangeable, and what is small
and as well served by another's adapter.
After rounds 1 and 2 clients also put every sample to the task, of the nearest few, whose adapter
serves it clearly better, response included; from there the tasks' places are refined as ever
(`FedRouter.auxiliary_requests`).

A client that comes later, or whose data changed, may bring samples that lie outside all tasks. They
make new tasks, which are on trial in the same way after their first round.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.config import Config
from fedrouter.protocol.messages import (
    ClientReply,
    ClientRequest,
    Comparison,
    ProfileOrder,
    TrainOrder,
)
from fedrouter.routing.clustering import GlobalTasks, join, squared_distances
from fedrouter.routing.types import TaskProfile
from fedrouter.seeding import derive_seed
from fedrouter.strategies.base import ServerState
from fedrouter.strategies.fedrouter.merging import (
    create_task,
    drop_empty,
    merge_groups,
    merge_small,
    merge_tasks,
    sizes,
)
from fedrouter.strategies.fedrouter.paper import PLACE, FedRouter

COMPARE = "compare"  # the exchange in which clients report losses
REGROUP = "regroup"  # the one in which they put samples where adapters serve them best
TRIAL_TASKS = 16  # groups to begin with
LEAST = 8  # samples that a client needs to hold one of them
NEIGHBOURS = 3  # groups that a group is compared with
SETTLED = 4  # after this round, tasks are compared again only if there are new ones
REGROUPS = 2  # the last round after which samples are put where adapters serve them best


class TaskDiscovery(FedRouter):
    """FedRouter that finds the number of tasks as it trains them."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.exchanges = 1  # the groups need not be right yet

    def join(self, profiles: Sequence[TaskProfile]) -> GlobalTasks:
        """More groups than tasks, each of two or more local ones on average."""
        local = sum(len(profile.counts) for profile in profiles)
        number = max(1, min(TRIAL_TASKS, local // 2))
        return join(profiles, number, derive_seed(self.config.seed, "join"))

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Step 1; in the first round, of about two groups a task, each takes half the steps; stray
        samples in a task of others take no more steps than they are."""
        counts, share = state.counts[client], 2 if round == 1 else 1
        return tuple(
            replace(order, steps=min(max(1, order.steps // share), counts[order.local_task]))
            for order in super().orders(state, round, client)
            if order.local_task is not None
        )

    def aggregate(
        self, state: ServerState, round: int, replies: Iterable[ClientReply]
    ) -> ServerState:
        """Step 2; tasks are compared after rounds 1, 2, 4, 8, ... but the last; from 8 on only if
        some came or merged since half as many rounds."""
        state = super().aggregate(state, round, replies)
        doubled = round & (round - 1) == 0
        unsettled = round <= SETTLED or any(event.round >= round // 2 for event in state.history)
        compared = (doubled and unsettled) or _young(state)
        last = round == self.config.federation.rounds
        return replace(state, pending=(COMPARE,)) if compared and not last else state

    def arrival(self, state: ServerState) -> ProfileOrder:
        """A client that joins late may bring new tasks."""
        assert state.router is not None
        return ProfileOrder(geometry=state.router.geometry, births=True)

    def add_client(self, state: ServerState, profile: TaskProfile) -> ServerState:
        """The state with a client that has joined, and with the tasks that it brought."""
        new = [j for j, task in enumerate(profile.tasks) if task < 0]
        known = tuple(max(task, 0) for task in profile.tasks)
        state = super().add_client(state, replace(profile, tasks=known))
        for local_task in new:
            state = create_task(state, profile.client, local_task, profile.centroids[local_task])
        return state

    def auxiliary_requests(self, state: ServerState, clients: Sequence[int]) -> list[ClientRequest]:
        """What the first of `state.pending` asks."""
        kind = state.pending[0]
        known = [client for client in clients if client in state.assignment]
        if kind == COMPARE:
            return self._compare(state, known)
        if kind == REGROUP:
            return [self._regroup(state, client) for client in known]
        return super().auxiliary_requests(state, clients)

    def apply_auxiliary(self, state: ServerState, replies: Iterable[ClientReply]) -> ServerState:
        """Merge tasks, or refine where they lie. On trial, a group that its clients have no samples
        of any more is no task; later, a task that nobody holds stays."""
        if state.pending[0] != COMPARE:
            after = super().apply_auxiliary(state, replies)
            silent = state.assignment.keys() - after.assignment.keys()
            told = {task for client in silent for task in state.assignment[client]}
            return drop_empty(after, told) if state.round <= REGROUPS else after
        number = len(state.adapters)
        found = relative_regret(state, replies)
        groups = merge_groups(found)
        if state.round >= REGROUPS:  # an adapter of one round knows little more than the form
            samples = sizes(state)
            groups = merge_small(groups, found, [samples[task] for task in state.adapters])
        state = merge_tasks(state, groups)
        fewer = len(state.adapters) < number
        trial = state.round <= REGROUPS or _young(state)
        pending = (REGROUP, PLACE) if trial else (PLACE,) if fewer else ()
        return replace(state, pending=pending)

    def placing(self, state: ServerState) -> ProfileOrder:
        """Step 0, refined; of the first groups, more than there are tasks, a client holds those
        that it has enough samples of to tell by."""
        least = LEAST if state.round < REGROUPS else 1
        return replace(super().placing(state), least=least)

    def _regroup(self, state: ServerState, client: int) -> ClientRequest:
        own = state.own_tasks(client)
        order = replace(super().placing(state), adapters=own)
        adapters = {task: state.adapters[task] for task in own}
        return ClientRequest(client, state.round, profile=order, adapters=adapters)

    def _compare(self, state: ServerState, clients: Sequence[int]) -> list[ClientRequest]:
        """Every group's losses with its own adapter and those of its neighbours, on samples of the
        client that has most of the group."""
        near = neighbours(state)
        asked: defaultdict[int, list[Comparison]] = defaultdict(list)
        for task, others in near.items():
            holders = [client for client in clients if task in state.assignment[client]]
            count = {c: state.counts[c][state.assignment[c].index(task)] for c in holders}
            if holders:
                client = min(holders, key=lambda c: (-count[c], c))
                local_task = state.assignment[client].index(task)
                asked[client].append(Comparison(local_task, (task, *others)))
        return [
            ClientRequest(
                client,
                state.round,
                compare=tuple(comparisons),
                adapters={
                    task: state.adapters[task]
                    for task in sorted({name for one in comparisons for name in one.adapters})
                },
            )
            for client, comparisons in sorted(asked.items())
        ]


def _young(state: ServerState) -> bool:
    """Whether a task has trained for its first round."""
    return any(
        event.kind == "created" and event.round == state.round - 1 for event in state.history
    )


def neighbours(state: ServerState) -> dict[str, list[str]]:
    """Each task's nearest others, and those whose nearest it is."""
    assert state.router is not None
    geometry = state.router.geometry
    distances = squared_distances(geometry.centroids, geometry.centroids, geometry.space)
    np.fill_diagonal(distances, np.inf)
    number = min(NEIGHBOURS, len(distances) - 1)
    near = np.zeros(distances.shape, bool)
    np.put_along_axis(near, distances.argsort(axis=1)[:, :number], True, axis=1)
    return {
        task: [geometry.tasks[u] for u in np.flatnonzero(row)]
        for task, row in zip(geometry.tasks, near | near.T, strict=True)
    }


def relative_regret(state: ServerState, replies: Iterable[ClientReply]) -> NDArray[np.float64]:
    """What another task's adapter costs each task, shape (T, T), of what its own one gives:

    C[t, u] = sum (L_u - L_t) / sum max(0, L - L_t) over the samples of t that clients told of, with
    L_u the loss with the adapter of u and L that of the base model; infinity where no client told.
    """
    assert state.router is not None
    names = state.router.geometry.tasks
    gains = np.zeros(len(names))
    losses, told = np.zeros((2, len(names), len(names)))
    for reply in replies:
        for one in reply.losses:
            task = state.assignment[reply.client][one.local_task]
            t, own = names.index(task), one.adapters[task]
            gains[t] += one.samples * max(0.0, one.base - own)
            for other, loss in one.adapters.items():
                losses[t, names.index(other)] += one.samples * (loss - own)
                told[t, names.index(other)] = 1
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(losses <= 0, 0.0, losses / gains[:, None])
    return np.where(told > 0, relative, np.inf)
