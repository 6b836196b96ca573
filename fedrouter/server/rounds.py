"""The round loop: plan requests, run them, check the replies, aggregate."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fedrouter.config import ResolvedConfig
from fedrouter.errors import ConfigError
from fedrouter.progress import Progress
from fedrouter.protocol.messages import (
    ClientRequest,
    EvaluateOrder,
    EvaluationReport,
    Failure,
    Scope,
)
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.server.budget import BudgetSpentError, check_budget, check_time
from fedrouter.server.engine import Engine, TimedEngine, Traffic, simulated_seconds
from fedrouter.server.late import TimedReplies
from fedrouter.server.low_ranks import with_best_components_first
from fedrouter.server.participation import Asked, ask_clients, asked_number, busy_clients
from fedrouter.server.replies import CheckedReplies, Replies, sample_counts
from fedrouter.server.secure_sums import SummedReplies
from fedrouter.strategies import ServerState, Strategy

EXCLUDED = (
    "its updates point against those of the other clients and were left out; if its data are "
    "sound, set aggregation.agreement = false"
)


@dataclass
class RoundRecord:
    """The metrics of one round; one line of `metrics.jsonl`.

    Attributes:
        round: the round, from 1.
        clients: the ids of the clients that were asked.
        lr: the learning rate.
        loss: mean training loss in nats per token, weighted by samples; None without updates.
        losses: the same of each received adapter that was trained on; of a task, by its id.
        tokens: number of tokens trained on.
        tasks: number of shared adapters after the round.
        bytes_up, bytes_down: bytes of arrays from and to clients.
        seconds: wall time of the phases "profile" (auxiliary exchanges), "train" and "aggregate".
        failures: the clients without a usable reply, each with `client` and `reason`.
        late: the clients that had not replied when the round was closed.
        late_replies: the late replies that count in this round, each with its `client` and the
            `round` in which it was asked.
        simulated_s: simulated seconds from the start of the run to the end of the round; None: time
            is not simulated.
    """

    round: int
    clients: list[int]
    lr: float
    loss: float | None
    losses: dict[str, float]
    tokens: int
    tasks: int
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]
    failures: list[dict[str, object]] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    late_replies: list[dict[str, object]] = field(default_factory=list)
    simulated_s: float | None = None


@dataclass
class FinishedRound:
    """A finished round.

    Attributes:
        state: the state after it.
        record: its metrics.
        evaluation: client -> its evaluation of the state before the round.
    """

    state: ServerState
    record: RoundRecord
    evaluation: Mapping[int, EvaluationReport]


def rounds(
    strategy: Strategy[Any],
    engine: Engine,
    state: ServerState,
    config: ResolvedConfig,
    expected: ExpectedArrays,
    *,
    progress: Progress | None = None,
) -> Iterator[FinishedRound]:
    """Run the rounds after `state`, up to the last, or as many as the budgets of bytes and of
    simulated time allow; yields each finished round.

    Args:
        strategy: the method.
        engine: runs requests on the clients.
        state: the state to continue from.
        config: the run's configuration.
        expected: names and shapes of arrays; a reply with others is refused.
        progress: receives progress callbacks.

    Raises:
        ConfigError: a budget does not suffice for one round.
    """
    progress = progress or Progress()
    for round in range(state.round + 1, config.federation.rounds + 1):
        began, sent = time.perf_counter(), Traffic(engine.traffic.up, engine.traffic.down)
        try:
            check_time(config.federation, simulated_seconds(engine))
            state, failures = exchanges(strategy, engine, state, expected, progress)
            refined = time.perf_counter() - began
            online = engine.online()
            asked = ask_clients(strategy, state, round, online)
            check_budget(config.federation, engine.traffic, asked.requests, expected)
        except BudgetSpentError as spent:
            if round == 1:
                raise ConfigError(f"no round fits: {spent}; raise the budget") from None
            progress.message(f"the run ends before round {round}: {spent}")
            return
        progress.round(round, config.federation.rounds)
        progress.phase("train", tasks_left(config, state))
        replies = _round_replies(strategy, engine, state, asked, expected)
        aggregated = strategy.aggregate(state, round, replies)
        state = with_best_components_first(config, engine, online, state, aggregated)
        if isinstance(replies, TimedReplies):
            state = replace(state, open_requests=replies.open_requests, speeds=replies.speeds)
        failures += [
            Failure(client, round, EXCLUDED) for client in asked.clients if client in state.excluded
        ]
        took = time.perf_counter() - began - refined
        record = RoundRecord(
            round=round,
            clients=asked.clients,
            lr=strategy.learning_rate(round),
            loss=replies.mean_loss,
            losses=replies.mean_losses,
            tokens=replies.tokens,
            tasks=len(state.adapters),
            bytes_up=engine.traffic.up - sent.up,
            bytes_down=engine.traffic.down - sent.down,
            seconds={
                "profile": refined,
                "train": replies.seconds,
                "aggregate": took - replies.seconds,
            },
            failures=_failure_table([*failures, *replies.failures]),
            late=[one.client for one in replies.late],
            late_replies=[asdict(one) for one in replies.late_replies],
            simulated_s=simulated_seconds(engine),
        )
        yield FinishedRound(state, record, replies.evaluation)


def _failure_table(failures: Sequence[Failure]) -> list[dict[str, object]]:
    """The failures of a round; a client that failed in several exchanges has one entry for each
    reason."""
    different = dict.fromkeys((failure.client, failure.reason) for failure in failures)
    return [{"client": client, "reason": reason} for client, reason in different]


def exchanges(
    strategy: Strategy[Any],
    engine: Engine,
    state: ServerState,
    expected: ExpectedArrays,
    progress: Progress,
) -> tuple[ServerState, list[Failure]]:
    """Run all pending exchanges with the clients that are not busy; returns the state after them
    and the clients that failed. They are few and short, and have no deadline.

    Raises:
        BudgetSpentError: an exchange does not fit the budget of bytes any more.
    """
    failures: list[Failure] = []
    while state.pending:
        busy = busy_clients(state)
        clients = [client for client in engine.online() if client not in busy]
        tasks = strategy.auxiliary_requests(state, clients)
        check_budget(strategy.config.federation, engine.traffic, tasks, expected)
        progress.phase("refine", len(tasks))
        replies = replies_to(strategy.config, engine, tasks, expected, sample_counts(state))
        state = strategy.apply_auxiliary(state, replies)
        failures += replies.failures
    return state, failures


def tasks_left(config: ResolvedConfig, state: ServerState) -> int:
    """An estimate of the number of requests from a state to the end of the run."""
    settings = config.federation
    each_round = min(settings.clients, asked_number(settings, settings.clients))
    return each_round * (settings.rounds - state.round)


def evaluation_is_due(config: ResolvedConfig, round: int) -> bool:
    """Whether the state after a round is evaluated before the next round's training."""
    settings = config.evaluation
    return settings.enabled and settings.every > 0 and round > 0 and round % settings.every == 0


def with_evaluation(
    task: ClientRequest, strategy: Strategy[Any], state: ServerState, scopes: tuple[Scope, ...]
) -> ClientRequest:
    """Add an order to evaluate `state` to a request, unless the request is for a profile: such a
    client has no tasks yet."""
    if task.profile is not None:
        return task
    rule = strategy.serve(state, task.client)
    adapters = {name: state.adapters[name] for name in rule.needs}
    return replace(
        task, evaluate=EvaluateOrder(rule, scopes), adapters={**task.adapters, **adapters}
    )


def replies_to(
    config: ResolvedConfig,
    engine: Engine,
    requests: Sequence[ClientRequest],
    expected: ExpectedArrays,
    counts: Mapping[int, Sequence[int]],
) -> Replies:
    """The clients' replies to requests or, with secure aggregation, their sum.

    Args:
        config: the run's configuration.
        engine: runs the requests.
        requests: of one round.
        expected: names and shapes of arrays.
        counts: as for `CheckedReplies`.
    """
    if config.privacy.secure_aggregation:
        return SummedReplies(engine, requests, expected, config.privacy)
    return CheckedReplies(engine, requests, expected, counts)


def _round_replies(
    strategy: Strategy[Any],
    engine: Engine,
    state: ServerState,
    asked: Asked,
    expected: ExpectedArrays,
) -> Replies:
    """The replies that count in a round, whose state before is `state`."""
    config, requests = strategy.config, asked.requests
    if evaluation_is_due(config, state.round):
        requests = [with_evaluation(one, strategy, state, ("local", "global")) for one in requests]
    if asked.closing is None:
        return replies_to(config, engine, requests, expected, sample_counts(state))
    assert isinstance(engine, TimedEngine), "Experiment refuses others"
    return TimedReplies(
        engine,
        requests,
        expected,
        state=state,
        settings=config.federation,
        closing=asked.closing,
    )
