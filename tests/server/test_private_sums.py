"""Differential privacy under secure aggregation: clients clip, add the noise, and count."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.configs import resolved
from support.masked_clients import MaskedEngine, Vanishes
from support.profiles import described
from support.scripted_clients import DIMENSION, INITIAL, ScriptedClient

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from fedrouter.errors import ConfigError
from fedrouter.progress import Progress
from fedrouter.protocol.messages import ClientRequest
from fedrouter.protocol.profile_orders import ClusterPrompts, DescribeEmbeddings
from fedrouter.routing.types import TaskProfile
from fedrouter.secure_aggregation.messages import KeysOrder, MaskOrder, UnmaskOrder
from fedrouter.server.rounds import FinishedRound, exchanges, rounds
from fedrouter.strategies import TaskState, make_strategy
from fedrouter.types import flatten

CLIENTS = 8
SECURE = ("privacy.secure_aggregation=true", f"federation.clients={CLIENTS}")
HUGE = ("privacy.epsilon=1e7", "privacy.delta=1e-3")
BUDGET = ("privacy.epsilon=8", "privacy.delta=1e-3")
FEDAVG = ("strategy=fedavg", "federation.rounds=2")
TASKS = ("clustering.n_local=2", "clustering.n_global=4", "federation.rounds=2")


class Engine(MaskedEngine):
    """Eight scripted clients that add noise, and a run of theirs."""

    def __init__(self, folder: Path, *sets: str, vanishes: Vanishes = lambda c, r: False) -> None:
        config = resolved(*SECURE, *sets)
        folder.mkdir(exist_ok=True)
        clients = {id: ScriptedClient(id, 2) for id in range(CLIENTS)}
        super().__init__(config, clients, folder, DIMENSION, vanishes)
        self.config = config

    def go(self) -> list[FinishedRound]:
        strategy = self.strategy
        public: list[TaskProfile] = []
        if strategy.public_profile:
            public = [described(0, np.random.default_rng(2).normal(2, 4, (200, DIMENSION)))]
        state = strategy.init(public, INITIAL, "base")
        state, failures = exchanges(strategy, self, state, self.expected, Progress())
        assert not failures
        return list(rounds(strategy, self, state, self.config, self.expected))


def movement(one: FinishedRound, adapter: str = "global") -> np.ndarray:
    return flatten(one.state.adapters[adapter]) - flatten(INITIAL)


def test_with_hardly_any_noise_the_sum_is_that_of_clipped_movements(tmp_path: Path) -> None:
    """Client c moves A by c and B by 1 + c: six numbers each, clipped to 1 by the client."""
    engine = Engine(tmp_path, *FEDAVG, *HUGE)
    first = engine.go()[0]
    expected = np.zeros(12)
    for c in range(CLIENTS):
        own = np.array([c] * 6 + [1.0 + c] * 6)
        expected += own / max(1.0, np.linalg.norm(own))
    np.testing.assert_allclose(movement(first), expected / CLIENTS, atol=2e-3)
    assert first.record.failures == []
    assert first.record.tokens == pytest.approx(7 * CLIENTS, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [(), (1, 6)])
def test_the_noise_of_the_opened_sum_is_that_of_the_budget(
    tmp_path: Path, lost: tuple[int, ...]
) -> None:
    """Over rounds of clients that do not move; the least number is 5 of 8."""
    number = 12

    def vanishes(client: int, request: ClientRequest) -> bool:
        return client in lost and isinstance(request.sum_order, MaskOrder)

    sets = *FEDAVG, *BUDGET, f"federation.rounds={number}", "training.lr_min=5e-4"
    engine = Engine(tmp_path, *sets, "training.lr=5e-4", vanishes=vanishes)
    for client in engine.clients.values():
        client.answer = still(client)  # type: ignore[method-assign]
    states = [INITIAL, *(one.state.adapters["global"] for one in engine.go())]
    steps = [flatten(b) - flatten(a) for a, b in pairwise(states)]
    plan = engine.strategy.privacy
    assert plan is not None
    by_the_budget = plan.round / CLIENTS
    expected = by_the_budget * ((CLIENTS - len(lost)) / 5) ** 0.5
    assert np.std(steps) == pytest.approx(expected, rel=0.2)  # three deviations of 144 draws
    total = engine.strategy.noise_deviation(number)
    assert total == pytest.approx(by_the_budget * (number * CLIENTS / 5) ** 0.5)


def still(client: ScriptedClient):
    """Answers with adapters as they arrived."""
    plain = client.answer

    def answer(request: ClientRequest):
        reply = plain(request)
        updates = [
            type(u)(u.slot, u.adapter, request.adapters[u.adapter], u.samples, u.loss, u.tokens)
            for u in reply.updates
        ]
        return type(reply)(reply.client, reply.round, updates=tuple(updates))

    return answer


@pytest.mark.slow
def test_fedrouter_finds_the_tasks_from_sums_with_noise(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "strategy=fedrouter", "clustering.space=standardized", *TASKS, *HUGE)
    last = engine.go()[-1].state
    assert isinstance(last, TaskState)
    assert last.assignment.keys() == set(range(CLIENTS))
    for c in range(4):
        assert set(last.assignment[c]) == set(last.assignment[c + 4])
    assert len({frozenset(tasks) for tasks in last.assignment.values()}) == 4
    assert last.privacy is not None
    assert len(last.privacy.multipliers) == 4 + 2
    for _, reply in engine.seen:
        assert reply.profile is None and reply.updates == ()
    once = [r for r, _ in engine.seen if isinstance(r.sum_order, UnmaskOrder) and r.client == 0]
    assert len(once) == 4 + 2  # nothing is summed when clients say which tasks they have


@pytest.mark.slow
def test_adapters_that_are_not_opened_get_noise_too(tmp_path: Path) -> None:
    """Clients 1 and 5, 2 and 6 are gone: one task is left with no clients, two with two."""

    def vanishes(client: int, request: ClientRequest) -> bool:
        return request.round == 1 and client % 4 in (1, 2)

    sets = "strategy=fedrouter", "clustering.space=standardized", *TASKS, *BUDGET
    engine = Engine(tmp_path, *sets, "privacy.threshold=3", vanishes=vanishes)
    first = engine.go()[0]
    assert any("their updates were not opened" in str(f["reason"]) for f in first.record.failures)
    assert all(movement(first, name).any() for name in first.state.adapters)


def test_if_no_sum_is_opened_adapters_stay(tmp_path: Path) -> None:
    def vanishes(client: int, request: ClientRequest) -> bool:
        return request.round == 1 and client < 4 and isinstance(request.sum_order, MaskOrder)

    ours = Engine(tmp_path, *FEDAVG, *BUDGET, vanishes=vanishes).go()
    assert not movement(ours[0]).any()
    assert movement(ours[1]).any()
    reasons = {str(failure["reason"]) for failure in ours[0].record.failures}
    assert any("expected 5 clients or more" in reason for reason in reasons)


def test_a_round_asked_again_has_the_same_noise_and_is_not_opened_over_others(
    tmp_path: Path,
) -> None:
    lost: set[int] = set()

    def vanishes(client: int, request: ClientRequest) -> bool:
        return client in lost and isinstance(request.sum_order, MaskOrder)

    engine = Engine(tmp_path, *FEDAVG, *BUDGET, "federation.rounds=1", vanishes=vanishes)
    first, again = engine.go(), engine.go()  # the server begins anew
    np.testing.assert_array_equal(movement(first[0]), movement(again[0]))
    lost.add(3)
    third = engine.go()
    reasons = {str(failure["reason"]) for failure in third[0].record.failures}
    assert any("its noise was opened over other clients before" in r for r in reasons)
    assert not movement(third[0]).any()


def test_clients_count_the_rounds_of_a_server_that_does_not(tmp_path: Path) -> None:
    """A server that asks for round 1 with other adapters each time, of a run of two rounds."""
    engine = Engine(tmp_path, *FEDAVG, *BUDGET)
    found = []
    for level in (1.0, 2.0, 3.0):
        other = {name: level * array for name, array in INITIAL.items()}
        state = engine.strategy.init([], other, "base")
        found.append(next(rounds(engine.strategy, engine, state, engine.config, engine.expected)))
    assert found[0].record.failures == []
    reasons = {str(failure["reason"]) for failure in found[2].record.failures}
    assert any("by the client's own account the privacy budget is spent" in r for r in reasons)


@pytest.mark.parametrize("order", [DescribeEmbeddings(), ClusterPrompts()], ids=lambda o: o.kind)
def test_clients_refuse_profiles_that_would_have_no_noise(tmp_path: Path, order: object) -> None:
    sets = "strategy=fedrouter", "clustering.space=standardized", *TASKS, *BUDGET
    engine = Engine(tmp_path, *sets)
    asked = ClientRequest(0, 0, profile=order, sum_order=KeysOrder("0" * 32))  # type: ignore[arg-type]
    [failure] = engine.run([asked])
    assert "has no noise, and privacy.epsilon" in failure.reason


def test_settings_that_do_not_go_together_are_refused() -> None:
    sets = *SECURE, *BUDGET, "strategy=fedprox"
    with pytest.raises(ConfigError, match="strategy should be fedrouter, fedavg or ffa"):
        make_strategy(resolved(*sets))
