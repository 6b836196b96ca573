"""DP-FedAvg over several adapters: what one client changes, and the noise, by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrouter.protocol.messages import ClientReply, Update
from fedrouter.strategies.aggregation import movement_ratio, private_means

A, B = "m.lora_A.weight", "m.lora_B.weight"
START = {
    name: {A: np.full((2, 3), value, np.float32), B: np.zeros((2, 2), np.float32)}
    for name, value in (("task-00", 1.0), ("task-01", -1.0))
}
MOVES = st.lists(
    st.tuples(st.sampled_from(["task-00", "task-01"]), st.floats(-100, 100), st.integers(1, 50)),
    min_size=1,
    max_size=3,
)


def reply(client: int, moves: list[tuple[str, float, int]]) -> ClientReply:
    updates = tuple(
        Update(slot, name, {k: a + np.float32(by) for k, a in START[name].items()}, n, 1.0, 1)
        for slot, (name, by, n) in enumerate(moves)
    )
    return ClientReply(client, 1, updates=updates)


def means(
    replies: list[ClientReply], *, multiplier: float = 1e-12, bound: float = 1.0, round: int = 1
) -> dict[str, np.ndarray]:
    found = private_means(
        START,
        replies,
        bound=bound,
        multiplier=multiplier,
        clients=2.0,
        secret="secret",
        round=round,
    )
    return {name: np.concatenate([w[A].ravel(), w[B].ravel()]) for name, w in found.items()}


def start() -> dict[str, np.ndarray]:
    return {name: np.concatenate([w[A].ravel(), w[B].ravel()]) for name, w in START.items()}


@given(st.lists(MOVES, min_size=1, max_size=4), st.data())
def test_one_client_changes_all_sums_together_by_at_most_the_bound(
    clients: list[list[tuple[str, float, int]]], data: st.DataObject
) -> None:
    """Neighbors: the same clients without the part of one, with all noise the same."""
    replies = [reply(client, moves) for client, moves in enumerate(clients)]
    left_out = data.draw(st.integers(0, len(replies) - 1))
    with_it = means(replies)  # noise depends on the clients, but is too small to matter
    without = means([one for one in replies if one.client != left_out])
    change = np.concatenate([with_it[name] - without[name] for name in with_it])
    assert np.linalg.norm(change) * 2.0 <= 1.0 + 1e-5  # sums are divided by 2 clients


def test_small_movements_are_added_up_and_divided_by_the_fixed_number() -> None:
    found = means([reply(0, [("task-00", 0.1, 5)]), reply(1, [("task-00", 0.2, 500)])])
    np.testing.assert_allclose(found["task-00"], start()["task-00"] + 0.15, rtol=1e-5)
    np.testing.assert_allclose(found["task-01"], start()["task-01"], atol=1e-6)


def test_the_movements_of_a_client_are_clipped_together() -> None:
    """Ten numbers by 1 in each of two adapters: a norm of sqrt(20), clipped to 1."""
    found = means([reply(0, [("task-00", 1.0, 5), ("task-01", 1.0, 5)])])
    for name, before in start().items():
        np.testing.assert_allclose(found[name] - before, 20**-0.5 / 2, rtol=1e-5)


def test_two_local_tasks_of_one_task_are_one_movement() -> None:
    found = means([reply(0, [("task-00", 0.1, 10), ("task-00", 0.2, 30)])])
    np.testing.assert_allclose(found["task-00"] - start()["task-00"], 0.175 / 2, rtol=1e-4)


def test_every_adapter_gets_its_own_noise_of_the_stated_size() -> None:
    noise = [
        means([], multiplier=3.0, bound=0.5, round=round)[name] - start()[name]
        for round in range(1, 301)
        for name in START
    ]
    assert np.std(noise) == pytest.approx(3.0 * 0.5 / 2, rel=0.04)
    first, other = np.concatenate(noise[::2]), np.concatenate(noise[1::2])
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.06


def test_a_repeated_round_has_other_noise_if_other_clients_answer() -> None:
    still = [reply(client, [("task-00", 0.0, 1)]) for client in range(3)]
    first, again = means(still, multiplier=1.0), means(still[::-1], multiplier=1.0)
    np.testing.assert_array_equal(first["task-01"], again["task-01"])
    other = means(still[:2], multiplier=1.0)
    assert np.abs(first["task-01"] - other["task-01"]).max() > 0.1


def test_a_movement_is_told_from_noise() -> None:
    numbers = 4000
    zero = {"a": np.zeros(numbers, np.float32)}
    noise = np.random.default_rng(0).normal(0, 0.1, numbers).astype(np.float32)
    assert movement_ratio(zero, {"a": noise}, 0.1) == (pytest.approx(1, abs=0.04), False)
    assert movement_ratio(zero, {"a": noise + np.float32(0.05)}, 0.1)[1]
