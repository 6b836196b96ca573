"""FedRouter (arXiv 2604.00050): one adapter for each task found across the clients.

The steps carry the numbers of the method in the paper: 0 profile, 1 train, 2 aggregate. Step 3,
inference, is `routing.Router`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import cos, pi

from fedrouter.aggregation import WeightedMean
from fedrouter.clustering import join
from fedrouter.config import Config
from fedrouter.messages import (
    ClientReply,
    ClientTask,
    ProfileOrder,
    TaskProfile,
    TrainOrder,
    Weights,
)
from fedrouter.routing import Router
from fedrouter.seeding import derive_seed
from fedrouter.strategies.base import ServerState


class FedRouter:
    """The paper's method; `config` gives the numbers of tasks, the rate and the steps."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def n_global(self) -> int:
        """The number of global tasks to find."""
        number = self.config.clustering.n_global
        assert number is not None, "the experiment resolves n_global before it makes a strategy"
        return number

    def profile(self, clients: Sequence[int]) -> list[ClientTask]:
        """Step 0, on the clients: embed the prompts, K-means them into local tasks."""
        order = ProfileOrder(self.config.clustering.n_local)
        return [ClientTask(client, round=0, profile=order) for client in clients]

    def init(
        self, profiles: Sequence[TaskProfile], initial: Weights, base_fingerprint: str
    ) -> ServerState:
        """Step 0, on the server: K-means all local centroids c_ij into global tasks g_t;
        assignment(i, j) = argmin_t ||c_ij - g_t||."""
        joined = join(profiles, self.n_global, derive_seed(self.config.seed, "join"))
        tasks = tuple(f"task-{t:02d}" for t in range(len(joined.centroids)))
        samples = sum(sum(profile.counts) for profile in profiles)
        scatter = sum(
            n * spread
            for profile in profiles
            for n, spread in zip(profile.counts, profile.spreads, strict=True)
        )
        return ServerState(
            round=0,
            router=Router(tasks, joined.centroids, scatter / samples, base_fingerprint),
            adapters=dict.fromkeys(tasks, initial),
            assignment={
                client: tuple(tasks[t] for t in found)
                for client, found in joined.assignment.items()
            },
            counts={profile.client: profile.counts for profile in profiles},
        )

    def plan(self, state: ServerState, round: int, clients: Sequence[int]) -> list[ClientTask]:
        """Step 1: a client trains, for each local task, the adapter of its global task."""
        return [
            ClientTask(
                client=client,
                round=round,
                train=self.orders(state, client),
                adapters={task: state.adapters[task] for task in state.own_tasks(client)},
                lr=self.learning_rate(round),
            )
            for client in clients
        ]

    def orders(self, state: ServerState, client: int) -> tuple[TrainOrder, ...]:
        """One order for each local task, on its own samples."""
        return tuple(
            TrainOrder(adapter=task, local_task=j, steps=self.config.training.steps)
            for j, task in enumerate(state.assignment[client])
        )

    def aggregate(
        self, state: ServerState, round: int, replies: Iterable[ClientReply]
    ) -> ServerState:
        """Step 2: A_t = sum n_ij A_ij / sum n_ij over the returned local tasks assigned to t.
        A task that nobody returned keeps its adapter."""
        means: dict[str, WeightedMean] = {}
        for reply in replies:
            orders = self.orders(state, reply.client)
            for update in reply.updates:
                task = orders[update.slot].adapter
                means.setdefault(task, WeightedMean()).add(update.weights, update.samples)
        averaged = {task: mean.result() for task, mean in means.items()}
        return replace(state, round=round, adapters={**state.adapters, **averaged})

    def learning_rate(self, round: int) -> float:
        """The rate of a round: a cosine from `lr` in the first to `lr_min` in the last."""
        settings = self.config.training
        progress = (round - 1) / max(1, self.config.federation.rounds - 1)
        return settings.lr_min + (settings.lr - settings.lr_min) * (1 + cos(pi * progress)) / 2
