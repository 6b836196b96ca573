"""The contract of a strategy: one federated method, pure over a serialisable state."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedrouter.messages import ClientReply, ClientTask, FloatArray, TaskProfile, Weights
from fedrouter.routing import Router


@dataclass(frozen=True)
class ServerState:
    """Everything the server knows after a round.

    Attributes:
        round: the last finished round; 0 after the profile.
        router: centroids of the global tasks.
        adapters: the adapter of each global task, by task id.
        assignment: client -> the global task of each of its local tasks.
        counts: client -> the number of samples of each of its local tasks.
    """

    round: int
    router: Router
    adapters: Mapping[str, Weights]
    assignment: Mapping[int, tuple[str, ...]]
    counts: Mapping[int, tuple[int, ...]]

    def own_tasks(self, client: int) -> tuple[str, ...]:
        """The global tasks that a client's local tasks belong to, in order of id."""
        return tuple(sorted(set(self.assignment[client])))

    def pack(self) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
        """The state as named arrays and JSON, for a checkpoint."""
        arrays: dict[str, np.ndarray[Any, Any]] = {
            f"{task}/{name}": array
            for task, weights in self.adapters.items()
            for name, array in weights.items()
        }
        arrays["centroids"] = self.router.centroids
        meta = {
            "tasks": list(self.router.tasks),
            "spread": self.router.spread,
            "base": self.router.base_fingerprint,
            "assignment": {str(client): list(ids) for client, ids in self.assignment.items()},
            "counts": {str(client): list(counts) for client, counts in self.counts.items()},
        }
        return arrays, meta

    @classmethod
    def unpack(
        cls, round: int, arrays: Mapping[str, FloatArray], meta: Mapping[str, Any]
    ) -> "ServerState":
        """The state that `pack` wrote."""
        tasks = tuple(meta["tasks"])
        adapters: dict[str, dict[str, FloatArray]] = {task: {} for task in tasks}
        for key, array in arrays.items():
            task, slash, name = key.partition("/")
            if slash:
                adapters[task][name] = array
        return cls(
            round=round,
            router=Router(tasks, arrays["centroids"], meta["spread"], meta["base"]),
            adapters=adapters,
            assignment={int(client): tuple(ids) for client, ids in meta["assignment"].items()},
            counts={int(client): tuple(counts) for client, counts in meta["counts"].items()},
        )


class Strategy(Protocol):
    """One federated method: what is sent, trained, averaged and used at inference."""

    def profile(self, clients: Sequence[int]) -> list[ClientTask]:
        """What to ask every client before the first round."""

    def init(
        self, profiles: Sequence[TaskProfile], initial: Weights, base_fingerprint: str
    ) -> ServerState:
        """The state before the first round; every task starts from the adapter `initial`."""

    def plan(self, state: ServerState, round: int, clients: Sequence[int]) -> list[ClientTask]:
        """What to ask the clients that take part in a round."""

    def aggregate(
        self, state: ServerState, round: int, replies: Iterable[ClientReply]
    ) -> ServerState:
        """The state after a round."""
