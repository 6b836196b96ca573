"""FedRouter with differential privacy: sums by brute force, the flow of exchanges, the budget."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configs import resolved
from support.profiles import assigned, described

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from fedrouter.errors import ConfigError, PrivacyError
from fedrouter.protocol.messages import ClientReply
from fedrouter.protocol.private_sums import part_of_sums
from fedrouter.protocol.profile_orders import AssignToNearest, AssignToStarts
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies import make_strategy
from fedrouter.strategies.fedrouter.private import PrivateFedRouter
from fedrouter.strategies.fedrouter.state import TaskState

INITIAL = {"m.lora_A.weight": np.ones((1, 2), np.float32)}
TASKS = ("clustering.n_local=2", "clustering.n_global=3")
BUDGET = ("privacy.epsilon=8", "privacy.delta=1e-3", "privacy.seeded_noise=true")
HUGE = ("privacy.epsilon=1e7", "privacy.delta=1e-3", "privacy.seeded_noise=true")
SEEDS = st.integers(0, 10**6)


def unit_vectors(seed: int, number: int, d: int = 6) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(number, d))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def sums(points: np.ndarray, unit: str, starts: np.ndarray) -> np.ndarray:
    """The client's part, as its answer to `AssignToStarts` gives it."""
    return part_of_sums(assigned(0, points, (starts,)), starts.shape, unit)


@given(SEEDS, st.integers(2, 12), st.integers(1, 4), st.data())
def test_one_sample_changes_the_sums_by_at_most_one(
    seed: int, number: int, k: int, data: st.DataObject
) -> None:
    points, starts = unit_vectors(seed, number), unit_vectors(seed + 1, k).astype(np.float32)
    out = data.draw(st.integers(0, number - 1))
    whole = sums(points, "sample", starts)
    without = sums(np.delete(points, out, axis=0), "sample", starts)
    assert np.linalg.norm(whole - without) <= 1 + 1e-4


@given(SEEDS, st.integers(1, 12), st.integers(1, 4))
def test_a_client_changes_the_sums_by_at_most_one(seed: int, number: int, k: int) -> None:
    points, starts = unit_vectors(seed, number), unit_vectors(seed + 1, k).astype(np.float32)
    found = sums(points, "client", starts)
    assert np.linalg.norm(found) <= 1 + 1e-6
    nearest = np.square(points[:, None] - starts).sum(axis=2).argmin(axis=1)
    for t in range(k):
        by_hand = points[nearest == t].sum(axis=0) / number
        np.testing.assert_allclose(found[t], by_hand, atol=1e-6)


@pytest.mark.parametrize("unit", ["client", "sample"])
def test_a_client_that_lies_about_its_vectors_is_clipped(unit: str) -> None:
    liar = TaskProfile(0, np.full((1, 4), 100, np.float32), (5,), (1.0,), (1.0,), tasks=(0,))
    most = 1 if unit == "client" else 5
    assert np.linalg.norm(part_of_sums(liar, (2, 4), unit)) == pytest.approx(most)


def clients(number: int) -> list[np.ndarray]:
    """The embeddings of clients with two of three tasks each, around (10, ..., 10)."""
    centers = 10 + 10 * np.eye(8)[:3]
    draws = np.random.default_rng(1)
    return [
        np.concatenate([draws.normal(centers[(c + i) % 3], 0.5, (6, 8)) for i in (0, 1)])
        for c in range(number)
    ]


def exchanged(method: PrivateFedRouter, state: TaskState, data: list[np.ndarray]) -> TaskState:
    """The state after the first pending exchange with honest clients."""
    replies = []
    for request in method.auxiliary_requests(state, range(len(data))):
        order = request.profile
        standard = state.geometry.standardization
        assert standard is not None
        points = standard(data[request.client]).astype(np.float64)
        assert isinstance(order, AssignToStarts | AssignToNearest)
        starts = order.starts if isinstance(order, AssignToStarts) else (state.geometry.centroids,)
        replies.append(ClientReply(request.client, 0, assigned(request.client, points, starts)))
    return method.apply_auxiliary(state, replies)


def public() -> TaskProfile:
    return described(0, np.random.default_rng(2).normal(0, 10, (200, 8)))


def settled(*sets: str, number: int = 30) -> tuple[PrivateFedRouter, TaskState, list[np.ndarray]]:
    method = make_strategy(resolved(*TASKS, *sets, f"federation.clients={number}"))
    assert isinstance(method, PrivateFedRouter)
    assert not method.profile(range(number))
    state, data = method.init([public()], INITIAL, "base"), clients(number)
    while state.pending:
        state = exchanged(method, state, data)
    return method, state, data


def test_with_hardly_any_noise_the_tasks_are_found_far_from_the_public_center() -> None:
    _, state, data = settled(*HUGE)
    standard = state.geometry.standardization
    assert standard is not None
    points = standard(np.concatenate(data)).astype(np.float64)
    nearest = (points @ state.geometry.centroids.T).argmax(axis=1).reshape(len(data), 2, 6)
    found = {(c + i) % 3: set(nearest[c, i].tolist()) for c in range(len(data)) for i in (0, 1)}
    assert all(len(tasks) == 1 for tasks in found.values())
    assert len(set.union(*found.values())) == 3
    assert state.assignment.keys() == set(range(30))
    assert state.privacy is not None and len(state.privacy.multipliers) == 4
    np.testing.assert_allclose(np.linalg.norm(state.geometry.centroids, axis=1), 1, atol=1e-5)


def test_noise_depends_on_who_answered_and_is_repeatable() -> None:
    method, _, data = settled(*BUDGET)
    state = method.init([public()], INITIAL, "base")
    assert state.geometry.standardization is not None
    means = []
    for part in (data, data, data[:-1]):
        geometry = exchanged(method, state, part).geometry
        assert geometry.standardization is not None
        means.append(geometry.standardization.mean)
    np.testing.assert_array_equal(means[0], means[1])
    assert np.abs(means[0] - means[2]).max() > 0.05


def test_an_exchange_beyond_the_budget_is_refused() -> None:
    method, state, data = settled(*BUDGET)
    assert state.privacy is not None and method.privacy is not None
    spent = replace(state.privacy, multipliers=(method.privacy.profile or 1.0,) * 100)
    start = method.init([public()], INITIAL, "base")
    with pytest.raises(PrivacyError, match="budget"):
        exchanged(method, replace(start, privacy=spent), data)
    with pytest.raises(PrivacyError, match="budget"):
        method.plan(replace(state, privacy=spent), 1, range(3))


def test_the_state_survives_a_checkpoint_with_its_ledger() -> None:
    _, state, _ = settled(*BUDGET)
    assert TaskState.unpack(*state.pack()).privacy == state.privacy


def test_all_faults_are_said_at_once() -> None:
    tasks = "clustering.n_global=auto", "clustering.space=whitened"
    sets = *tasks, "mode=auto", "aggregation.robust=median", "federation.ranks=[1, 2]"
    with pytest.raises(ConfigError) as error:
        make_strategy(resolved(*BUDGET, *sets))
    for fault in (
        "n_global should be numbers",
        '"standardized"',
        'robust should be "none"',
        "ranks should be unset",
    ):
        assert fault in str(error.value)


@pytest.mark.parametrize("name", ["fedprox", "ditto", "centralized", "oracle", "fedavg-ft"])
def test_methods_without_an_account_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="strategy should be fedrouter, fedavg or ffa"):
        make_strategy(resolved(*TASKS, *BUDGET, f"strategy={name}"))


@pytest.mark.parametrize("keys", [("privacy.epsilon=8",), ("privacy.delta=1e-3",)])
def test_a_budget_is_two_numbers(keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="needs privacy"):
        resolved(*keys)


@pytest.mark.parametrize("name", ["fedavg", "ffa", "fedrouter"])
def test_bounds_follow_the_learning_rate_and_expected_clients_are_public(name: str) -> None:
    sets = (
        "training.lr=0.1",
        "training.lr_min=0.01",
        "federation.rounds=4",
        "federation.clients=9",
    )
    method = make_strategy(resolved(*TASKS, *BUDGET, *sets, f"strategy={name}"))
    assert method.movement_bound(1) == 1
    assert method.movement_bound(4) == pytest.approx(0.1)
    assert method.expected_clients == (6 if name == "fedrouter" else 9)  # 9 clients * 2 of 3 tasks
    assert method.privacy is not None
    norm = sum(method.movement_bound(r) ** 2 for r in (1, 2)) ** 0.5
    expected = method.privacy.round * norm / method.expected_clients
    assert method.noise_deviation(2) == pytest.approx(expected)


def test_noise_in_shares_is_larger_if_no_client_vanishes() -> None:
    given = *TASKS, *BUDGET, "federation.clients=10", "strategy=fedavg"
    shares = *given, "privacy.secure_aggregation=true"
    by_server = make_strategy(resolved(*given)).noise_deviation(3)
    for sets, least in (((), 6), (("privacy.threshold=9",), 9)):
        found = make_strategy(resolved(*shares, *sets)).noise_deviation(3)
        assert found == pytest.approx(by_server * (10 / least) ** 0.5)
