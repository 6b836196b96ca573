"""Aggregation of a round with hostile clients, with numbers that can be checked by hand."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrouter.config import ResolvedAggregationConfig
from fedrouter.protocol.messages import ClientReply, Update
from fedrouter.strategies.aggregation import Aggregate, aggregate
from fedrouter.strategies.aggregation.agreement import agreement_scores
from fedrouter.types import AdapterWeights

A, B = "m.lora_A.weight", "m.lora_B.weight"
START = {A: np.array([[1, 1]], np.float32), B: np.array([[0], [0]], np.float32)}
RULES = ("clip", "median", "trimmed_mean", "geometric_median", "krum")


def trained(a: float, b: float) -> AdapterWeights:
    """The adapter after a movement of (a, 0, b, 0)."""
    return {A: START[A] + np.array([[a, 0]], np.float32), B: np.array([[b], [0]], np.float32)}


def reply(client: int, *sent: tuple[str, AdapterWeights, int]) -> ClientReply:
    updates = (
        Update(slot, name, weights, samples, loss=1.0, tokens=1)
        for slot, (name, weights, samples) in enumerate(sent)
    )
    return ClientReply(client, 1, updates=tuple(updates))


def one_task(movements: Iterable[float], samples: int = 10) -> list[ClientReply]:
    return [reply(i, ("t", trained(a, 0), samples)) for i, a in enumerate(movements)]


def combined(
    rule: str, replies: Iterable[ClientReply], *, by_task: bool = False, **options: object
) -> Aggregate:
    settings = ResolvedAggregationConfig(robust=rule, **options)
    names = {update.adapter for one in replies for update in one.updates}
    return aggregate(settings, dict.fromkeys(names, START), replies, excluded=(), by_task=by_task)


def moved(found: Aggregate, name: str = "t") -> float:
    """The movement of the first number of A."""
    return float(found.adapters[name][A][0, 0]) - 1


def test_without_a_rule_the_mean_is_that_of_the_paper() -> None:
    replies = [reply(0, ("t", trained(1, 0), 30)), reply(1, ("t", trained(5, 0), 10))]
    assert moved(combined("none", replies)) == 2


def test_clipping_bounds_a_norm_by_that_of_the_others() -> None:
    """Norms 1, 1, 1000; the median is 1, so 1000 becomes 1.5: (1 + 1 + 1.5) / 3."""
    assert moved(combined("clip", one_task([1, 1, 1000]))) == pytest.approx(3.5 / 3)
    assert moved(combined("clip", one_task([1, 1, -1000]))) == pytest.approx(0.5 / 3)


def test_a_task_with_few_clients_is_bounded_by_the_norms_of_all_tasks() -> None:
    """Task t has the norms 1 and 800; over both tasks the lower median of 1, 1, 2, 800 is 1."""
    replies = [
        reply(0, ("t", trained(1, 0), 10), ("u", trained(2, 0), 10)),
        reply(1, ("t", trained(800, 0), 10), ("u", trained(1, 0), 10)),
    ]
    found = combined("clip", replies)
    assert moved(found, "t") == pytest.approx((1 + 1.5) / 2)
    assert moved(found, "u") == pytest.approx((1.5 + 1) / 2)


def test_a_client_counts_for_at_most_a_multiple_of_the_median_number_of_samples() -> None:
    replies = one_task([1, 1, 1], samples=10)
    replies.append(reply(3, ("t", trained(0, 0), 10**9)))
    assert moved(combined("clip", replies)) == pytest.approx(30 / 45)


def test_a_client_with_two_local_tasks_of_a_task_counts_once() -> None:
    """Krum of 5 clients, of which the last sends its movement twice."""
    replies = one_task([1.0, 1.1, 0.9, 1.0])
    replies.append(reply(4, ("t", trained(-1, 0), 5), ("t", trained(-1, 0), 5)))
    assert moved(combined("krum", replies)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("clip", (1 + 2 + 3 + 3.5 - 4.5) / 5),  # the median norm is 3, the bound 4.5
        ("median", 2),
        ("trimmed_mean", (1 + 2 + 3) / 3),
        ("krum", (1 + 2 + 3 + 3.5) / 4),
    ],
)
def test_each_rule_by_hand(rule: str, expected: float) -> None:
    """Five clients, a quarter of which may be hostile: one."""
    assert moved(combined(rule, one_task([1, 2, 3, 3.5, -900]))) == pytest.approx(expected)


@pytest.mark.parametrize("rule", RULES)
def test_fewer_than_five_clients_have_the_bounded_mean(rule: str) -> None:
    assert moved(combined(rule, one_task([1, 2, 3, 2]))) == pytest.approx(2)


@pytest.mark.parametrize("rule", RULES)
@given(values=st.lists(st.floats(-9, 9), min_size=1, max_size=7), data=st.data())
def test_the_order_of_replies_changes_nothing_at_all(
    rule: str, values: list[float], data: st.DataObject
) -> None:
    replies = one_task(values)
    found = combined(rule, replies, by_task=True)
    shuffled = combined(rule, data.draw(st.permutations(replies)), by_task=True)
    assert found.excluded == shuffled.excluded
    assert {name: array.tobytes() for name, array in found.adapters["t"].items()} == {
        name: array.tobytes() for name, array in shuffled.adapters["t"].items()
    }


@pytest.mark.parametrize("rule", RULES)
@given(values=st.lists(st.floats(1, 2), min_size=5, max_size=9), hostile=st.floats(-1e6, 1e6))
def test_one_hostile_client_cannot_move_an_adapter_out_of_bounds(
    rule: str, values: list[float], hostile: float
) -> None:
    assert abs(moved(combined(rule, one_task([*values, hostile])))) <= 3.01


def ring(hostile: Iterable[int], clients: int = 8) -> list[ClientReply]:
    """Client i trains the tasks i and i + 1 on a ring. Movements of a task have a part of their own
    and a smaller part that all tasks have in common."""
    draws = np.random.default_rng(0)
    own = draws.normal(0, 1, (clients, 400))
    common = draws.normal(0, 0.5, 400)
    replies = []
    for client in range(clients):
        sent = []
        for task in (client, (client + 1) % clients):
            step = own[task] + common + draws.normal(0, 0.5, 400)
            step = -step if client in hostile else step
            sent.append((f"t{task}", {A: START_400[A] + step.astype(np.float32)[None]}, 10))
        replies.append(reply(client, *sent))
    return replies


START_400 = {A: np.zeros((1, 400), np.float32)}


def excluded(replies: list[ClientReply], before: tuple[int, ...] = (), **options: object) -> object:
    settings = ResolvedAggregationConfig(robust="clip", **options)
    names = {update.adapter for one in replies for update in one.updates}
    starts = dict.fromkeys(names, START_400)
    return aggregate(settings, starts, replies, excluded=before, by_task=True).excluded


@pytest.mark.parametrize("hostile", [(), (3,), (0, 1, 5), (2, 4, 6)])
def test_clients_against_the_others_are_found_over_tasks_of_two_clients(
    hostile: tuple[int, ...],
) -> None:
    assert excluded(ring(hostile)) == hostile


def test_an_adapter_whose_clients_are_all_left_out_stays() -> None:
    replies = ring((2, 3))
    names = {update.adapter for one in replies for update in one.updates}
    settings = ResolvedAggregationConfig(robust="clip")
    found = aggregate(settings, dict.fromkeys(names, START_400), replies, excluded=(), by_task=True)
    assert names - found.adapters.keys() == {"t3"}


def test_a_verdict_holds_until_there_is_evidence_for_the_opposite() -> None:
    silent = [reply(c, (f"t{c}", START_400, 10), ("u", START_400, 10)) for c in range(5)]
    assert excluded(silent, before=(1,)) == (1,)
    assert excluded(ring(()), before=(1,)) == ()
    assert excluded(ring(())[:3], before=(1,)) == (1,)


def test_agreement_can_be_turned_off() -> None:
    assert excluded(ring((3,)), agreement=False) == ()


def test_colluders_do_not_count_more_for_agreeing_perfectly() -> None:
    """Five honest clients with cosines of 0.1, three colluders with cosines of 1 among themselves
    and -0.1 to the others: every cosine becomes a vote of 0.1."""
    honest = np.array([1] * 5 + [-1] * 3)
    cosines = 0.1 * np.outer(honest, honest)
    cosines[5:, 5:] = 1
    np.fill_diagonal(cosines, 0)
    np.testing.assert_allclose(agreement_scores(cosines), 0.1 * honest)
