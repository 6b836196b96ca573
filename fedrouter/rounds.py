"""The round loop: plan, run, aggregate."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fedrouter.config import Config
from fedrouter.engines.base import Engine, Traffic
from fedrouter.messages import ClientReply
from fedrouter.seeding import generator
from fedrouter.strategies import ServerState, Strategy


@dataclass
class RoundRecord:
    """What a round cost and gave; one line of metrics.jsonl."""

    round: int
    clients: list[int]
    lr: float
    loss: float | None
    tokens: int
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]


def rounds(
    strategy: Strategy, engine: Engine, state: ServerState, config: Config
) -> Iterator[tuple[ServerState, RoundRecord]]:
    """Rounds from the one after `state` to the last, each as its state and its record."""
    for round in range(state.round + 1, config.federation.rounds + 1):
        began, sent = time.perf_counter(), Traffic(engine.traffic.up, engine.traffic.down)
        chosen = participants(config, round)
        tasks = strategy.plan(state, round, chosen)
        tally = _Tally()
        state = strategy.aggregate(state, round, tally.watch(engine.run(tasks)))
        took = time.perf_counter() - began
        yield (
            state,
            RoundRecord(
                round=round,
                clients=chosen,
                lr=tasks[0].lr,
                loss=tally.mean_loss,
                tokens=tally.tokens,
                bytes_up=engine.traffic.up - sent.up,
                bytes_down=engine.traffic.down - sent.down,
                seconds={"train": tally.seconds, "aggregate": took - tally.seconds},
            ),
        )


def participants(config: Config, round: int) -> list[int]:
    """The clients of a round: a seeded sample of `federation.fraction` of them, in order of id."""
    settings = config.federation
    number = max(settings.min_clients, int(settings.fraction * settings.clients + 0.5))
    draws = generator(config.seed, "participants", round)
    return sorted(draws.choice(settings.clients, size=number, replace=False).tolist())


class _Tally:
    """Counts what passes from the engine to the strategy, and the time the engine takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tokens = 0
        self._losses: list[tuple[float, int]] = []

    def watch(self, replies: Iterable[ClientReply]) -> Iterator[ClientReply]:
        """Pass the replies on."""
        source = iter(replies)
        while True:
            began = time.perf_counter()
            reply = next(source, None)
            self.seconds += time.perf_counter() - began
            if reply is None:
                return
            for update in reply.updates:
                self.tokens += update.tokens
                self._losses.append((update.loss, update.samples))
            yield reply

    @property
    def mean_loss(self) -> float | None:
        """Training loss, weighted by samples; None where nothing came back."""
        samples = sum(count for _, count in self._losses)
        return sum(loss * count for loss, count in self._losses) / samples if samples else None
