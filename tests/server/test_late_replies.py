"""What a late reply may be like, with clients that are not honest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from support.configs import resolved
from support.scripted_clients import INITIAL, SHAPES

from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure, Update
from fedrouter.protocol.open_requests import OpenRequest
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.routing.types import TaskProfile
from fedrouter.server.engine import Closing, Late, Traffic
from fedrouter.server.rounds import FinishedRound, rounds
from fedrouter.strategies import make_strategy

CONFIG = resolved("federation.rounds=2", "federation.deadline_s=1", "clustering.n_global=1")
EXPECTED = ExpectedArrays(SHAPES, dimension=2)


class Latecomer:
    """Clients 0 and 1; the second one's reply to round 1 comes in round 2."""

    def __init__(self, late: ClientReply | Failure) -> None:
        self.traffic = Traffic()
        self.simulated_s: float | None = None
        self.durations: dict[int, float] = {}
        self.late = late

    def online(self) -> Sequence[int]:
        return [0, 1]

    def rank(self, client: int) -> int | None:
        return None

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        raise AssertionError("there is a deadline")

    def run_until(
        self, tasks: Sequence[ClientRequest], closing: Closing
    ) -> Iterator[ClientReply | Failure | Late]:
        for task in tasks:
            yield Late(1) if task.client == 1 else trained(0, task.round, 2, 2.0)

    def arrived(self, requests: Sequence[OpenRequest]) -> Mapping[int, ClientReply | Failure]:
        return {one.client: self.late for one in requests}


def trained(client: int, round: int, samples: int, level: float) -> ClientReply:
    weights = {name: np.full(shape, level, np.float32) for name, shape in SHAPES.items()}
    update = Update(0, "task-00", weights, samples=samples, loss=1.0, tokens=5)
    return ClientReply(client, round, updates=(update,))


def go(late: ClientReply | Failure) -> list[FinishedRound]:
    method = make_strategy(CONFIG)
    places = np.zeros((1, 2), np.float32)
    profiles = [TaskProfile(client, places, (2,), (0.5,), (0.5,)) for client in (0, 1)]
    state = method.init(profiles, INITIAL, "base")
    return list(rounds(method, Latecomer(late), state, CONFIG, EXPECTED))


def test_a_late_reply_is_recorded_where_it_counts() -> None:
    first, second = go(trained(1, 1, 2, 4.0))
    assert (first.record.clients, first.record.late) == ([0, 1], [1])
    assert (second.record.clients, second.record.late) == ([0], [])
    assert second.record.late_replies == [{"client": 1, "round": 1}]
    assert (first.record.tokens, second.record.tokens) == (5, 10)


def test_a_late_reply_is_checked_like_any_other() -> None:
    for bad, reason in (
        (trained(1, 1, 3, 4.0), "expected 1 to 2 samples"),  # of 2 that it had when it was asked
        (trained(1, 2, 2, 4.0), "expected client 1 and round 1"),
        (trained(0, 1, 2, 4.0), "expected client 1 and round 1"),
        (Failure(1, 1, "the node\nis gone"), "the node?is gone"),
        (replace(trained(1, 1, 2, 4.0), updates=()), "updates: expected one"),
    ):
        first, second = go(bad)
        assert second.record.late_replies == []
        assert second.record.tokens == 5
        [failure] = second.record.failures
        assert failure["client"] == 1
        assert str(failure["reason"]).startswith("late reply to round 1: ")
        assert reason in str(failure["reason"]), failure
        assert first.record.failures == []


def test_a_client_whose_data_changed_meanwhile_does_not_count() -> None:
    _, second = go(ClientReply(1, 1, changed=True))
    assert second.record.late_replies == second.record.failures == []
    assert second.state.open_requests == ()
