"""The contract of a strategy: one federated method, pure over a serialisable state."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from numpy.typing import NDArray

from fedrouter.config import ResolvedConfig, Section
from fedrouter.errors import ConfigError
from fedrouter.protocol.messages import ClientReply, ClientRequest, Serving, TrainOrder
from fedrouter.routing.types import TaskProfile
from fedrouter.serialization import ArrayTable, deserialize, serialize
from fedrouter.strategies.aggregation import WeightedMean
from fedrouter.types import AdapterWeights

SHARED = "global"  # the name of the one adapter that all clients share
PERSONAL = "personal"  # the name under which a client keeps an adapter of its own


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """What the server knows after a round. Methods that know more have a subclass.

    Attributes:
        round: the last finished round; 0 before the first.
        base: the base model's fingerprint.
        adapters: the shared adapters (or the shared matrices of them), by name.
        pending: the auxiliary exchanges that are due before the next round, in the method's own
            names (`Strategy.auxiliary_requests`).
    """

    round: int
    base: str
    adapters: Mapping[str, AdapterWeights]
    pending: tuple[str, ...] = ()

    def pack(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The state as named arrays and JSON, for a checkpoint."""
        table = ArrayTable()
        meta = json.loads(serialize(self, table))
        return table.arrays, meta

    @classmethod
    def unpack(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Self:
        """The state that `pack` wrote.

        Raises:
            ValueError: the two are nothing that it could have written.
        """
        return deserialize(cls, json.dumps(meta), ArrayTable(arrays))


State = TypeVar("State", bound=ServerState)


class Strategy(Generic[State]):
    """One federated method: what is sent, trained, averaged and used at inference.

    A subclass says what a client trains (`orders`) and how it answers (`serve`); what is the same
    in most methods stands here. All methods train ``n_local * training.steps`` batches per client
    and round, so that they compare at the same budget.

    Attributes:
        personalized: clients answer with adapters that they keep for themselves.
        reference: uses what a federation does not have (true tasks, all data in one place): shown
            beside the others, never ranked.
        pooled: client 0 is given the training rows of all clients.
        state_type: the class of the method's state.
        settings: the strategy's own section, `[strategies.NAME]`; a subclass that registers a
            schema for it annotates this attribute with that schema.
    """

    personalized: ClassVar[bool] = False
    reference: ClassVar[bool] = False
    pooled: ClassVar[bool] = False
    state_type: ClassVar[type[ServerState]] = ServerState
    settings: Section

    def __init__(self, config: ResolvedConfig) -> None:
        self.config = config
        self.settings = config.strategy_settings

    def profile(self, clients: Sequence[int]) -> list[ClientRequest]:
        """What to ask the clients before the first round: by default nothing."""
        return []

    def init(
        self,
        profiles: Iterable[TaskProfile],
        initial: AdapterWeights,
        base_fingerprint: str,
    ) -> State:
        """The state before the first round; every adapter starts from `initial`."""
        return self._first_state({SHARED: initial}, base_fingerprint)

    def auxiliary_requests(self, state: State, clients: Sequence[int]) -> list[ClientRequest]:
        """What to ask the clients before the next round, in the first of `state.pending`."""
        raise NotImplementedError

    def apply_auxiliary(self, state: State, replies: Iterable[ClientReply]) -> State:
        """The state after the first of `state.pending`."""
        raise NotImplementedError

    def _first_state(
        self, adapters: Mapping[str, AdapterWeights], base_fingerprint: str, **fields: Any
    ) -> State:
        """The state of round 0, with the fields that `state_type` has beyond these."""
        state = self.state_type(round=0, base=base_fingerprint, adapters=adapters, **fields)
        return cast(State, state)

    def orders(self, state: State, round: int, client: int) -> tuple[TrainOrder, ...]:
        """What a client trains in a round."""
        raise NotImplementedError

    def serve(self, state: State, client: int) -> Serving:
        """How a client answers prompts."""
        raise NotImplementedError

    def plan(self, state: State, round: int, clients: Sequence[int]) -> list[ClientRequest]:
        """What to ask the clients that take part in a round."""
        return [self._task(state, round, client) for client in clients]

    def aggregate(self, state: State, round: int, replies: Iterable[ClientReply]) -> State:
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

    def _task(self, state: State, round: int, client: int) -> ClientRequest:
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


def split_steps(config: ResolvedConfig) -> tuple[int, int]:
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
