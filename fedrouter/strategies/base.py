"""The interface of a strategy: one federated method, as pure functions of a serializable state."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import cos, pi
from typing import Any, ClassVar, Generic, TypeVar, cast

from fedrouter.config import ResolvedConfig, Section
from fedrouter.errors import ConfigError
from fedrouter.privacy.budget import PrivacyLedger, PrivacyPlan
from fedrouter.privacy.compatibility import check_compatible
from fedrouter.privacy.private_sums import PrivateSums
from fedrouter.protocol.messages import ClientReply, ClientRequest, TrainOrder
from fedrouter.protocol.serving_rules import Serving
from fedrouter.routing.types import TaskProfile
from fedrouter.secure_aggregation.rules import SumRules
from fedrouter.strategies.aggregation import aggregate, opened_means, private_means
from fedrouter.strategies.state import ServerState
from fedrouter.types import AdapterWeights

SHARED = "global"  # the name of the one adapter that all clients share
PERSONAL = "personal"  # the name under which a client keeps an adapter of its own


State = TypeVar("State", bound=ServerState)


class Strategy(Generic[State]):
    """One federated method: what is sent, trained, averaged and used at inference.

    A subclass defines what a client trains (`orders`) and how it answers prompts (`serve`); this
    class has defaults for the rest. All methods train ``n_local * training.steps`` batches per
    client and round, so that they are compared at the same budget.

    Attributes:
        personalized: clients answer with adapters that they keep for themselves.
        reference: whether the method uses information that a federation does not have (true tasks,
            all data in one place). References are listed apart and not ranked.
        pooled: whether client 0 receives the training rows of all clients.
        by_task: whether each shared adapter stands for a task.
        private: whether the method can work with differential privacy; not inherited, since a
            subclass may send more.
        public_profile: whether `init` gets a profile of public prompts instead of the clients'.
        profile_releases: the number of noisy sums of profiles before the first round.
        from_sums: whether sums over clients are enough for the server (secure aggregation).
        state_type: the class of the method's state.
        settings: the strategy's own section, `[strategies.NAME]`; a subclass that registers a
            schema for it annotates this attribute with that schema.

    >>> from fedrouter import SingleAdapter, Strategy, TrainOrder, load_config
    >>> from fedrouter.config.resolve import resolve
    >>> class Shared(Strategy):
    ...     def orders(self, state, round, client):
    ...         return (TrainOrder(("global",), self.config.training.steps),)
    ...     def serve(self, state, client):
    ...         return SingleAdapter("global")
    >>> strategy = Shared(resolve(load_config(None, ["training.steps=5"]), tasks=()))
    >>> [order.steps for order in strategy.orders(None, round=1, client=0)]
    [5]
    """

    personalized: ClassVar[bool] = False
    reference: ClassVar[bool] = False
    pooled: ClassVar[bool] = False
    by_task: ClassVar[bool] = False
    private: ClassVar[bool] = False
    public_profile: ClassVar[bool] = False
    profile_releases: ClassVar[int] = 0
    from_sums: ClassVar[bool] = True
    state_type: ClassVar[type[ServerState]] = ServerState
    settings: Section

    def __init__(self, config: ResolvedConfig) -> None:
        self.config = config
        self.settings = config.strategy_settings
        if config.privacy.epsilon is not None:
            check_compatible(config, "private" in vars(type(self)))  # which no subclass inherits
        self.privacy = PrivacyPlan.of(config, self.profile_releases)

    def profile(self, clients: Sequence[int]) -> list[ClientRequest]:
        """The requests for profiles before the first round; by default none."""
        return []

    def init(
        self,
        profiles: Iterable[TaskProfile],
        initial: AdapterWeights,
        base_fingerprint: str,
    ) -> State:
        """The state before the first round.

        Args:
            profiles: the answers to the requests of `profile`; may be empty.
            initial: the initial weights of every adapter.
            base_fingerprint: the base model's fingerprint.
        """
        return self._first_state({SHARED: initial}, base_fingerprint)

    def auxiliary_requests(self, state: State, clients: Sequence[int]) -> list[ClientRequest]:
        """The requests of the first exchange in `state.pending`, run before the next round."""
        raise NotImplementedError

    def apply_auxiliary(self, state: State, replies: Iterable[ClientReply]) -> State:
        """The state after the first exchange in `state.pending`, given the replies to it."""
        raise NotImplementedError

    def _first_state(
        self, adapters: Mapping[str, AdapterWeights], base_fingerprint: str, **fields: Any
    ) -> State:
        """The state of round 0; `fields` are the additional fields of `state_type`."""
        ledger = None if self.privacy is None else PrivacyLedger.new(self.config)
        state = self.state_type(
            round=0, base=base_fingerprint, adapters=adapters, privacy=ledger, **fields
        )
        return cast(State, state)

    def orders(self, state: State, round: int, client: int) -> tuple[TrainOrder, ...]:
        """The training that a client is asked to do in a round, one order for each adapter.

        Args:
            state: the state before the round.
            round: the round, from 1.
            client: the client's id.
        """
        raise NotImplementedError

    def serve(self, state: State, client: int) -> Serving:
        """The rule by which a client answers prompts with the adapters of `state`."""
        raise NotImplementedError

    def plan(self, state: State, round: int, clients: Sequence[int]) -> list[ClientRequest]:
        """The requests to the clients that take part in a round.

        Args:
            state: the state before the round.
            round: the round, from 1.
            clients: the ids of the clients that take part.

        Raises:
            PrivacyError: the round would exceed the privacy budget.
        """
        self._charged(state)
        return [self._task(state, round, client) for client in clients]

    def aggregate(self, state: State, round: int, replies: Iterable[ClientReply]) -> State:
        """The state after a round: each adapter is the mean, by the rule in `[aggregation]`, of the
        updates that were trained from it. An adapter without updates is unchanged.

        Args:
            state: the state before the round.
            round: the round, from 1.
            replies: the clients' checked replies, in any order; consumed one at a time.
        """
        ledger = self._charged(state)
        if ledger is not None and self.privacy is not None:
            if self.config.privacy.unit == "client":
                masked = self.config.privacy.secure_aggregation
                means = (opened_means if masked else private_means)(
                    state.adapters,
                    replies,
                    bound=self.movement_bound(round),
                    multiplier=self.privacy.round,
                    clients=self.expected_clients,
                    secret=ledger.secret,
                    round=round,
                )
                return replace(state, round=round, adapters=means, privacy=ledger)
            state = replace(state, privacy=ledger)
        after = aggregate(
            self.config.aggregation,
            state.adapters,
            replies,
            excluded=state.excluded,
            by_task=self.by_task,
        )
        return replace(
            state,
            round=round,
            adapters={**state.adapters, **after.adapters},
            excluded=after.excluded,
        )

    def _charged(self, state: State) -> PrivacyLedger | None:
        """The ledger with the next round's release."""
        if self.privacy is None or state.privacy is None:
            return None
        return state.privacy.with_release(self.privacy, self.privacy.round)

    @property
    def clients_of_round(self) -> int:
        """The number of clients that are expected to take part in a round; public."""
        federation = self.config.federation
        return max(federation.min_clients, int(federation.fraction * federation.clients + 0.5))

    @property
    def expected_clients(self) -> float:
        """The number of clients that are expected to train an adapter in a round; public."""
        return float(self.clients_of_round)

    @property
    def private_sums(self) -> PrivateSums | None:
        """Bounds and noise of sums to which clients add the noise; None: they add none."""
        settings = self.config.privacy
        if self.privacy is None or not settings.secure_aggregation:
            return None
        return PrivateSums(
            settings.unit,
            self.privacy.profile or 0.0,
            self.privacy.round if settings.unit == "client" else 0.0,
            tuple(self.movement_bound(r + 1) for r in range(self.config.federation.rounds)),
        )

    def movement_bound(self, round: int) -> float:
        """The norm to which a client's movement in a round is clipped; proportional to the
        learning rate, as movements are."""
        return self.config.privacy.max_norm * self.learning_rate(round) / self.learning_rate(1)

    def noise_deviation(self, round: int) -> float:
        """The standard deviation of all noise on each number of an adapter after a round; under
        secure aggregation at most, since all clients that answer add a share of it."""
        if self.privacy is None:
            return 0.0
        bounds = [self.movement_bound(done) for done in range(1, round + 1)]
        norm = sum(bound**2 for bound in bounds) ** 0.5
        return float(self.privacy.round * norm * self._noise_excess / self.expected_clients)

    @property
    def _noise_excess(self) -> float:
        """How much larger the noise is if no client vanishes: a sum has the noise of the budget if
        as few clients as possible are left."""
        if not self.config.privacy.secure_aggregation:
            return 1.0
        privacy, clients = self.config.privacy, self.clients_of_round
        least = SumRules(privacy.min_clients, privacy.threshold).noise_least(clients, clients)
        return float(max(1.0, clients / least) ** 0.5)

    def learning_rate(self, round: int) -> float:
        """The learning rate of a round: a cosine from `lr` in the first to `lr_min` in the last."""
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
    """Split a round's S steps: S - S // 2 for the shared adapter, S // 2 for the personal one.

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
    """The names of the adapters of `number` clusters of clients."""
    return tuple(f"cluster-{c:02d}" for c in range(number))


def noting(
    replies: Iterable[ClientReply], note: Callable[[ClientReply], None]
) -> Iterator[ClientReply]:
    """Call `note` on each reply as it is consumed, without storing the replies."""
    for reply in replies:
        note(reply)
        yield reply
