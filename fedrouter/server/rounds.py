"""The round loop: plan, run, check, aggregate."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedrouter.config import ResolvedConfig
from fedrouter.errors import MessageError
from fedrouter.progress import Progress
from fedrouter.protocol.messages import (
    ClientReply,
    ClientRequest,
    EvaluateOrder,
    EvaluationReport,
    Failure,
    Scope,
)
from fedrouter.protocol.validation import ExpectedArrays, check_reply
from fedrouter.seeding import generator
from fedrouter.server.engine import Engine, Traffic
from fedrouter.strategies import ServerState, Strategy


@dataclass
class RoundRecord:
    """What a round cost and gave; one line of metrics.jsonl.

    `tasks` is the number of shared adapters after it; `seconds` counts exchanges as "profile".
    """

    round: int
    clients: list[int]
    lr: float
    loss: float | None
    tokens: int
    tasks: int
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]
    failures: list[dict[str, object]] = field(default_factory=list)


@dataclass
class FinishedRound:
    """A finished round.

    Attributes:
        state: the state after it.
        record: what it cost and gave.
        findings: client -> what its evaluation of the state before the round gave.
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
    """Rounds from the one after `state` to the last.

    Args:
        strategy: the method.
        engine: where the clients are.
        state: where to go on from.
        config: the run's configuration.
        expected: what arrays look like; a reply that does not fit is refused.
        progress: hears how far the rounds are.
    """
    progress = progress or Progress()
    for round in range(state.round + 1, config.federation.rounds + 1):
        began, sent = time.perf_counter(), Traffic(engine.traffic.up, engine.traffic.down)
        state, failures = exchanges(strategy, engine, state, expected, progress)
        refined = time.perf_counter() - began
        progress.phase("train", tasks_left(config, state))
        chosen = participants(config, round, engine.online())
        tasks = strategy.plan(state, round, chosen)
        if evaluation_is_due(config, state.round):
            scopes: tuple[Scope, ...] = ("local", "global")
            tasks = [with_evaluation(task, strategy, state, scopes) for task in tasks]
        replies = CheckedReplies(engine, tasks, expected)
        state = strategy.aggregate(state, round, replies)
        took = time.perf_counter() - began - refined
        record = RoundRecord(
            round=round,
            clients=chosen,
            lr=strategy.learning_rate(round),
            loss=replies.mean_loss,
            tokens=replies.tokens,
            tasks=len(state.adapters),
            bytes_up=engine.traffic.up - sent.up,
            bytes_down=engine.traffic.down - sent.down,
            seconds={
                "profile": refined,
                "train": replies.seconds,
                "aggregate": took - replies.seconds,
            },
            failures=[
                {"client": f.client, "reason": f.reason} for f in (*failures, *replies.failures)
            ],
        )
        yield FinishedRound(state, record, replies.evaluation)


def exchanges(
    strategy: Strategy[Any],
    engine: Engine,
    state: ServerState,
    expected: ExpectedArrays,
    progress: Progress,
) -> tuple[ServerState, list[Failure]]:
    """The state after all exchanges that are due before the next round, and who did not answer."""
    failures: list[Failure] = []
    while state.pending:
        tasks = strategy.auxiliary_requests(state, engine.online())
        progress.phase("refine", len(tasks))
        replies = CheckedReplies(engine, tasks, expected)
        state = strategy.apply_auxiliary(state, replies)
        failures += replies.failures
    return state, failures


def tasks_left(config: ResolvedConfig, state: ServerState) -> int:
    """About how many client tasks there are from a state to the end of the run."""
    settings = config.federation
    each_round = max(settings.min_clients, int(settings.fraction * settings.clients + 0.5))
    return each_round * (settings.rounds - state.round)


def participants(config: ResolvedConfig, round: int, online: Sequence[int]) -> list[int]:
    """The clients of a round: a seeded sample of `federation.fraction` of those online, and at
    least `federation.min_clients` where there are as many, in order of id."""
    settings = config.federation
    wanted = max(settings.min_clients, int(settings.fraction * len(online) + 0.5))
    draws = generator(config.seed, "participants", round)
    number = min(wanted, len(online))
    if not number:
        return []
    return sorted(draws.choice(list(online), size=number, replace=False).tolist())


def evaluation_is_due(config: ResolvedConfig, round: int) -> bool:
    """Whether the state after a round is to be evaluated before the next one is trained."""
    settings = config.evaluation
    return settings.enabled and settings.every > 0 and round > 0 and round % settings.every == 0


def with_evaluation(
    task: ClientRequest, strategy: Strategy[Any], state: ServerState, scopes: tuple[Scope, ...]
) -> ClientRequest:
    """The task, with the order to evaluate `state` first; as it is where the client has none of
    the method's adapters yet."""
    if task.profile is not None:
        return task
    rule = strategy.serve(state, task.client)
    adapters = {name: state.adapters[name] for name in rule.needs}
    return replace(
        task, evaluate=EvaluateOrder(rule, scopes), adapters={**task.adapters, **adapters}
    )


class CheckedReplies:
    """The replies of an engine to some tasks, each checked before it is passed on.

    Attributes:
        seconds: the time that the engine took.
        tokens: number of tokens trained on.
        failures: clients that gave no usable answer.
        findings: client -> what its evaluation gave.
    """

    def __init__(
        self, engine: Engine, tasks: Sequence[ClientRequest], expected: ExpectedArrays
    ) -> None:
        self.seconds = 0.0
        self.tokens = 0
        self.failures: list[Failure] = []
        self.evaluation: dict[int, EvaluationReport] = {}
        self._losses: list[tuple[float, int]] = []
        self._answers = engine.run(tasks)
        self._tasks = {task.client: task for task in tasks}
        self._expected = expected

    def __iter__(self) -> Iterator[ClientReply]:
        """Pass the good replies on."""
        while True:
            began = time.perf_counter()
            answer = next(self._answers, None)
            self.seconds += time.perf_counter() - began
            if answer is None:
                return
            if isinstance(answer, Failure):
                self.failures.append(answer)
            elif self._is_good(answer):
                self._note(answer)
                yield answer

    def _is_good(self, reply: ClientReply) -> bool:
        task = self._tasks[reply.client]
        try:
            check_reply(task, reply, self._expected)
        except MessageError as error:
            self.failures.append(Failure(task.client, task.round, str(error)))
            return False
        return True

    def _note(self, reply: ClientReply) -> None:
        if reply.evaluation is not None:
            self.evaluation[reply.client] = reply.evaluation
        for update in reply.updates:
            self.tokens += update.tokens
            self._losses.append((update.loss, update.samples))

    @property
    def mean_loss(self) -> float | None:
        """Training loss, weighted by samples; None where nothing came back."""
        samples = sum(count for _, count in self._losses)
        return sum(loss * count for loss, count in self._losses) / samples if samples else None
