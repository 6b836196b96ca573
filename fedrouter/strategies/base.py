"""The contract of a strategy: one federated method, pure over a serialisable state."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import cos, pi
from typing import Any, ClassVar

import numpy as np

from fedrouter.config import Config
from fedrouter.errors import ConfigError
from fedrouter.protocol.messages import ClientReply, ClientRequest, Serving, TrainOrder
from fedrouter.routing.history import Event
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.strategies.aggregation import WeightedMean
from fedrouter.types import AdapterWeights, FloatArray

SHARED = "global"  # the name of the one adapter that all clients share
PERSONAL = "personal"  # the name under which a client keeps an adapter of its own


@dataclass(frozen=True)
class ServerState:
    """Everything the server knows after a round.

    Attributes:
        round: the last finished round; 0 before the first.
        base: the base model's fingerprint.
        adapters: the shared adapters (or the shared part of them), by name.
        router: centroids of the global tasks; None where nothing is routed.
        assignment: client -> the adapter of each of its local tasks (of all its samples, where the
            method knows no local tasks).
        counts: client -> the number of samples of each of its local tasks.
        names: true task's name -> its adapter; empty where true tasks are unknown.
        arrays: what else a method remembers, by name.
        due: the exchanges of profiles and losses that are due before the next round, in a method's
            own words.
        history: what became of tasks.
    """

    round: int
    base: str
    adapters: Mapping[str, AdapterWeights]
    router: Router | None = None
    assignment: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    arrays: Mapping[str, FloatArray] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    history: tuple[Event, ...] = ()

    def own_tasks(self, client: int) -> tuple[str, ...]:
        """The global tasks that a client's local tasks belong to, in order of id."""
        return tuple(sorted(set(self.assignment.get(client, ()))))

    def pack(self) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
        """The state as named arrays and JSON, for a checkpoint."""
        arrays: dict[str, np.ndarray[Any, Any]] = {
            f"adapters/{adapter}/{name}": array
            for adapter, weights in self.adapters.items()
            for name, array in weights.items()
        }
        arrays |= {f"arrays/{name}": array for name, array in self.arrays.items()}
        router = None
        if self.router is not None:
            geometry = self.router.geometry
            arrays["router"] = geometry.centroids
            if geometry.space is not None:
                arrays["space"] = geometry.space
            router = {
                "tasks": list(geometry.tasks),
                "mean": geometry.mean,
                "deviation": geometry.deviation,
                "variance": geometry.variance,
            }
        meta = {
            "base": self.base,
            "adapters": list(self.adapters),
            "router": router,
            "assignment": {str(client): list(ids) for client, ids in self.assignment.items()},
            "counts": {str(client): list(counts) for client, counts in self.counts.items()},
            "names": dict(self.names),
            "due": list(self.pending),
            "history": [asdict(event) for event in self.history],
        }
        return arrays, meta

    @classmethod
    def unpack(
        cls, round: int, arrays: Mapping[str, FloatArray], meta: Mapping[str, Any]
    ) -> "ServerState":
        """The state that `pack` wrote."""
        adapters: dict[str, dict[str, FloatArray]] = {name: {} for name in meta["adapters"]}
        others: dict[str, FloatArray] = {}
        for key, array in arrays.items():
            kind, _, name = key.partition("/")
            if kind == "adapters":
                adapter, _, tensor = name.partition("/")
                adapters[adapter][tensor] = array
            elif kind == "arrays":
                others[name] = array
        router, told = None, meta["router"]
        if told is not None:
            numbers = (told["mean"], told["deviation"], told["variance"])
            tasks = tuple(told["tasks"])
            geometry = TaskGeometry(tasks, arrays["router"], *numbers, arrays.get("space"))
            router = Router(geometry, meta["base"])
        return cls(
            round=round,
            base=meta["base"],
            adapters=adapters,
            router=router,
            assignment={int(client): tuple(ids) for client, ids in meta["assignment"].items()},
            counts={int(client): tuple(counts) for client, counts in meta["counts"].items()},
            names=meta["names"],
            arrays=others,
            pending=tuple(meta["due"]),
            history=tuple(Event(**event) for event in meta["history"]),
        )


class Strategy:
    """One federated method: what is sent, trained, averaged and used at inference.

    A subclass says what a client trains (`orders`) and how it answers (`serve`); what is the same
    in most methods stands here. All methods train ``n_local * training.steps`` batches per client
    and round, so that they compare at the same budget.

    Attributes:
        personalised: clients answer with adapters that they keep for themselves.
        reference: uses what a federation does not have (true tasks, all data in one place): shown
            beside the others, never ranked.
        pooled: client 0 is given the training rows of all clients.
    """

    personalised: ClassVar[bool] = False
    reference: ClassVar[bool] = False
    pooled: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self.config = config

    def profile(self, clients: Sequence[int]) -> list[ClientRequest]:
        """What to ask the clients before the first round: by default nothing."""
        return []

    def init(
        self,
        profiles: Iterable[TaskProfile],
        initial: AdapterWeights,
        base_fingerprint: str,
    ) -> ServerState:
        """The state before the first round; every adapter starts from `initial`."""
        return ServerState(round=0, base=base_fingerprint, adapters={SHARED: initial})

    def auxiliary_requests(self, state: ServerState, clients: Sequence[int]) -> list[ClientRequest]:
        """What to ask the clients before the next round, in the first of `state.pending`."""
        raise NotImplementedError

    def apply_auxiliary(self, state: ServerState, replies: Iterable[ClientReply]) -> ServerState:
        """The state after the first of `state.pending`."""
        raise NotImplementedError

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """What a client trains in a round."""
        raise NotImplementedError

    def serve(self, state: ServerState, client: int) -> Serving:
        """How a client answers prompts."""
        raise NotImplementedError

    def plan(self, state: ServerState, round: int, clients: Sequence[int]) -> list[ClientRequest]:
        """What to ask the clients that take part in a round."""
        return [self._task(state, round, client) for client in clients]

    def aggregate(
        self, state: ServerState, round: int, replies: Iterable[ClientReply]
    ) -> ServerState:
        """The state after a round: every adapter is the mean of what was trained from it and sent
        back, weighted by samples. An adapter that nobody sent stays as it is."""
        means: dict[str, WeightedMean] = {}
        for reply in replies:
            for update in reply.updates:
                if update.adapter is not None and update.weights:
                    mean = means.setdefault(update.adapter, WeightedMean())
                    mean.add(update.weights, update.samples)
        averaged = {name: mean.result() for name, mean in means.items()}
        return replace(state, round=round, adapters={**state.adapters, **averaged})

    def learning_rate(self, round: int) -> float:
        """The rate of a round: a cosine from `lr` in the first to `lr_min` in the last."""
        return self._cosine(round, self.config.federation.rounds)

    def _cosine(self, round: int, rounds: int) -> float:
        settings = self.config.training
        progress = (round - 1) / max(1, rounds - 1)
        return settings.lr_min + (settings.lr - settings.lr_min) * (1 + cos(pi * progress)) / 2

    def _task(self, state: ServerState, round: int, client: int) -> ClientRequest:
        orders = self.orders(state, round, client)
        named = {name for order in orders for name in order.adapters}
        named |= {order.companion.adapter for order in orders if order.companion}
        named |= {order.proximal.toward for order in orders if order.proximal}
        return ClientRequest(
            client=client,
            round=round,
            train=orders,
            adapters={name: state.adapters[name] for name in sorted(named)},
            lr=self.learning_rate(round),
        )


def forget(state: ServerState, clients: Sequence[int]) -> ServerState:
    """The state without the profiles of some clients."""

    def others(table: Mapping[int, Any]) -> dict[int, Any]:
        return {client: value for client, value in table.items() if client not in clients}

    return replace(state, assignment=others(state.assignment), counts=others(state.counts))


def split_steps(config: Config) -> tuple[int, int]:
    """A round's S steps in two passes: S - S // 2 for the shared adapter, S // 2 for an own one.

    Raises:
        ConfigError: there are too few steps for two passes.
    """
    steps = config.training.steps
    if steps < 2:
        raise ConfigError(
            f"strategy {config.strategy!r} trains two adapters a round: set training.steps to 2 "
            "or more"
        )
    return steps - steps // 2, steps // 2


def cluster_names(number: int) -> tuple[str, ...]:
    """The names of the adapters of clusters of clients."""
    return tuple(f"cluster-{c:02d}" for c in range(number))


def noting(
    replies: Iterable[ClientReply], note: Callable[[ClientReply], None]
) -> Iterator[ClientReply]:
    """Pass replies on one at a time, each noted on its way: means are taken as replies arrive."""
    for reply in replies:
        note(reply)
        yield reply
