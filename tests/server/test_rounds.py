"""The round loop against an engine whose clients do not all behave."""

from collections.abc import Iterator, Sequence

import numpy as np
from support.configs import resolved

from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure, Update
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.routing.types import TaskProfile
from fedrouter.server.engine import Traffic
from fedrouter.server.rounds import FinishedRound, rounds
from fedrouter.strategies import ServerState, make_strategy

A, B = "m.lora_A.weight", "m.lora_B.weight"
INITIAL = {A: np.ones((1, 2), np.float32), B: np.zeros((2, 1), np.float32)}
EXPECTED = ExpectedArrays({name: array.shape for name, array in INITIAL.items()}, dimension=2)
CONFIG = resolved("federation.rounds=2", "clustering.n_global=2")


class Scripted:
    """Clients 0 to 2; the third is new, and says what `late` holds about its data."""

    def __init__(self, late: TaskProfile | None) -> None:
        self.traffic = Traffic()
        self.late = late

    def online(self) -> Sequence[int]:
        return [0, 1, 2]

    def rank(self, client: int) -> int | None:
        return None

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        for task in tasks:
            if task.profile is not None:
                yield ClientReply(task.client, task.round, self.late)
            else:
                yield self.trained(task)

    def trained(self, task: ClientRequest) -> ClientReply | Failure:
        """Client 1 has diverged."""
        loss = np.nan if task.client == 1 else 1.0
        weights = {A: np.ones((1, 2), np.float32), B: np.ones((2, 1), np.float32)}
        updates = tuple(
            Update(slot, order.adapters[0], weights, samples=2, loss=loss, tokens=5)
            for slot, order in enumerate(task.train)
        )
        return ClientReply(task.client, task.round, updates=updates)


class Silent(Scripted):
    """Nobody answers."""

    def trained(self, task: ClientRequest) -> Failure:
        return Failure(task.client, task.round, "the node is gone")


def profile(client: int, centroid: Sequence[float]) -> TaskProfile:
    return TaskProfile(client, np.array([centroid], np.float32), (2,), (0.5,), (0.5,))


def go(engine: Scripted) -> tuple[ServerState, list[FinishedRound]]:
    method = make_strategy(CONFIG)
    state = method.init([profile(0, [0, 0]), profile(1, [9, 9])], INITIAL, "base")
    return state, list(rounds(method, engine, state, CONFIG, EXPECTED))


def reasons(done: FinishedRound) -> dict[object, object]:
    return {failure["client"]: failure["reason"] for failure in done.record.failures}


def test_a_bad_reply_costs_its_client_and_is_recorded() -> None:
    _, (first, second) = go(Scripted(profile(2, [8, 8])))
    assert "expected a loss" in str(reasons(first)[1])
    np.testing.assert_array_equal(first.state.adapters["task-00"][B], np.ones((2, 1)))
    np.testing.assert_array_equal(first.state.adapters["task-01"][B], np.zeros((2, 1)))
    assert first.state.assignment[2] == ("task-01",)  # the late client's nearest
    np.testing.assert_array_equal(second.state.adapters["task-01"][B], np.ones((2, 1)))


def test_a_late_profile_that_does_not_fit_is_recorded_and_asked_for_again() -> None:
    _, done = go(Scripted(profile(2, [1, 2, 3])))
    for one in done:
        assert "shape (1, 3)" in str(reasons(one)[2])
        assert 2 not in one.state.assignment


def test_a_round_in_which_nobody_answers_changes_nothing() -> None:
    before, done = go(Silent(None))
    for one in done:
        assert set(reasons(one)) == {0, 1, 2}
        assert one.record.loss is None
        assert one.state.assignment == before.assignment
        for task, weights in one.state.adapters.items():
            for name, array in weights.items():
                np.testing.assert_array_equal(array, before.adapters[task][name])


class Forged(Scripted):
    """Client 1 answers as client 0, then as nobody, and its engine's reason forges a line."""

    def trained(self, task: ClientRequest) -> ClientReply | Failure:
        weights = {A: np.ones((1, 2), np.float32), B: np.full((2, 1), 1 + task.client, np.float32)}
        updates = (Update(0, task.train[0].adapters[0], weights, samples=2, loss=1.0, tokens=5),)
        if task.client == 2:
            return Failure(2, task.round, "a\n\x1b[2Jforged" + "x" * 1000)
        client = task.client if task.client != 1 else {1: 0, 2: 999}[task.round]
        return ClientReply(client, task.round, updates=updates)


def test_nobody_answers_for_another() -> None:
    _, (first, second) = go(Forged(profile(2, [8, 8])))
    assert "expected client 1 and round 1, got client 0" in str(reasons(first)[1])
    assert "expected client 1 and round 2, got client 999" in str(reasons(second)[1])
    for one in (first, second):  # client 0's update alone, once
        np.testing.assert_array_equal(one.state.adapters["task-00"][B], np.ones((2, 1)))
        assert one.record.tokens == 5
    told = str(reasons(second)[2])
    assert told.startswith("a??[2Jforged")
    assert len(told) == 300
