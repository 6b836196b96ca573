from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrouter.data.partition import Scenario, Shares, partition
from fedrouter.data.rows import Row
from fedrouter.errors import DataError

SCENARIOS: tuple[Scenario, ...] = ("single", "dual", "all", "dirichlet", "column")


def make_rows(*sizes: int) -> list[Row]:
    """`sizes[t]` rows of each task t, one task after the other, grouped by task."""
    return [
        Row(f"prompt {t} {i}", "answer", task=f"task {t}", group=f"site {t}")
        for t, size in enumerate(sizes)
        for i in range(size)
    ]


def tasks_held(rows: list[Row], parts: Shares) -> list[tuple[str, ...]]:
    return [tuple(sorted({str(rows[i].task) for i in part})) for part in parts]


def test_single_gives_every_client_one_task() -> None:
    rows = make_rows(6, 6, 6)
    held = tasks_held(rows, partition(rows, "single", 6, seed=1))
    assert all(len(tasks) == 1 for tasks in held)
    assert Counter(held) == {("task 0",): 2, ("task 1",): 2, ("task 2",): 2}


def test_dual_with_as_many_clients_as_tasks_gives_different_pairs() -> None:
    rows = make_rows(*[10] * 8)
    parts = partition(rows, "dual", 8, seed=0)
    held = tasks_held(rows, parts)
    assert len(set(held)) == 8
    assert all(len(tasks) == 2 for tasks in held)
    assert set(Counter(task for tasks in held for task in tasks).values()) == {2}
    assert [len(part) for part in parts] == [10] * 8


@pytest.mark.parametrize("tasks", range(2, 9))
def test_dual_deals_every_pair_before_it_repeats_one(tasks: int) -> None:
    rows = make_rows(*[40] * tasks)
    pairs = list(combinations([f"task {t}" for t in range(tasks)], 2))
    held = tasks_held(rows, partition(rows, "dual", len(pairs), seed=0))
    assert sorted(held) == pairs


def test_dual_with_one_task_is_single() -> None:
    rows = make_rows(5)
    assert sorted(map(len, partition(rows, "dual", 2, seed=0))) == [2, 3]


def test_tasks_without_a_holder_leave_their_rows_unused() -> None:
    rows = make_rows(4, 4, 4, 4, 4)
    parts = partition(rows, "dual", 2, seed=0)
    assert len({task for tasks in tasks_held(rows, parts) for task in tasks}) == 4
    assert [len(part) for part in parts] == [8, 8]


def test_all_is_an_even_random_split() -> None:
    rows = [Row(str(i), "") for i in range(11)]
    parts = partition(rows, "all", 3, seed=0)
    assert [len(part) for part in parts] == [4, 4, 3]
    assert parts[0] != [0, 1, 2, 3]


def test_dirichlet_concentrates_with_a_small_alpha_and_evens_out_with_a_large_one() -> None:
    rows = make_rows(400, 400)

    def largest_share(alpha: float) -> float:
        parts = partition(rows, "dirichlet", 4, seed=0, alpha=alpha)
        counts = np.array([[sum(i // 400 == t for i in part) for part in parts] for t in (0, 1)])
        assert counts.sum(axis=1).tolist() == [400, 400]
        return float(counts.max(axis=1).mean() / 400)

    assert largest_share(1e-3) > 0.95
    assert largest_share(1e4) < 0.27


def test_clients_that_dirichlet_leaves_without_rows_take_one_of_the_largest_share() -> None:
    """With an alpha this small one client has all rows of a task."""
    parts = partition(make_rows(2000), "dirichlet", 1500, seed=1, alpha=1e-4)
    assert sorted(map(len, parts)) == [1] * 1499 + [501]


def test_column_gives_each_client_one_group_where_the_numbers_agree() -> None:
    rows = make_rows(2, 5, 3)
    assert partition(rows, "column", 3, seed=0) == [[0, 1], [2, 3, 4, 5, 6], [7, 8, 9]]


def test_column_balances_groups_by_size() -> None:
    rows = make_rows(5, 4, 3, 3, 3)
    parts = partition(rows, "column", 2, seed=0)
    # 5 to the one, 4 to the other, then 3 each to the other, the one, the other
    assert [len(part) for part in parts] == [8, 10]
    assert {rows[i].group for i in parts[0]}.isdisjoint({rows[i].group for i in parts[1]})


def test_seeds_differ() -> None:
    rows = make_rows(9, 9, 9)
    for scenario in ("single", "dual", "all", "dirichlet"):
        assert partition(rows, scenario, 3, seed=0) != partition(rows, scenario, 3, seed=1)


@settings(max_examples=150)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=7),
    scenario=st.sampled_from(SCENARIOS),
    clients=st.integers(1, 10),
    seed=st.integers(0, 2**63 - 1),
    alpha=st.sampled_from([0.01, 0.3, 5.0]),
)
def test_what_every_scenario_promises(
    sizes: list[int], scenario: Scenario, clients: int, seed: int, alpha: float
) -> None:
    rows = make_rows(*sizes)
    try:
        parts = partition(rows, scenario, clients, seed, alpha)
    except DataError as error:
        assert "\n" not in str(error)
        assert scenario in ("single", "dual", "column") or clients > len(rows)
        return
    dealt = [i for part in parts for i in part]
    assert len(parts) == clients
    assert all(parts)
    assert all(part == sorted(part) for part in parts)
    assert len(set(dealt)) == len(dealt)
    assert set(dealt) <= set(range(len(rows)))
    assert parts == partition(rows, scenario, clients, seed, alpha)
    places = {"single": clients, "dual": 2 * clients}.get(scenario, len(sizes))
    if places >= len(sizes):
        assert len(dealt) == len(rows)


@settings(max_examples=60)
@given(
    tasks=st.integers(2, 9),
    clients=st.integers(1, 12),
    seed=st.integers(0, 99),
    scenario=st.sampled_from(["single", "dual"]),
)
def test_clients_hold_one_or_two_tasks_shared_evenly(
    tasks: int, clients: int, seed: int, scenario: Scenario
) -> None:
    rows = make_rows(*[25] * tasks)
    parts = partition(rows, scenario, clients, seed)
    held = tasks_held(rows, parts)
    assert {len(names) for names in held} == {1 if scenario == "single" else 2}
    holders = Counter(name for names in held for name in names)
    assert max(holders.values()) - min(holders.values()) <= (1 if scenario == "single" else 2)
    for part, names in zip(parts, held, strict=True):
        for name in names:
            assert sum(rows[i].task == name for i in part) in {
                25 // holders[name],
                -(-25 // holders[name]),
            }


@pytest.mark.parametrize("scenario", ["single", "dual", "dirichlet"])
def test_rows_must_name_tasks_where_the_scenario_deals_them(scenario: Scenario) -> None:
    rows = [*make_rows(2), Row("a", "b")]
    with pytest.raises(DataError, match=r"task name.*row 3 has none.*data\.columns"):
        partition(rows, scenario, 1, seed=0)


def test_rows_must_have_a_group_where_the_scenario_deals_groups() -> None:
    with pytest.raises(DataError, match=r"row 1 has none; set data\.split_column"):
        partition([Row("a", "b")], "column", 1, seed=0)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_numbers_of_clients_that_cannot_be(scenario: Scenario) -> None:
    with pytest.raises(
        DataError, match=r"federation\.clients = 5 is more than the 4 training rows"
    ):
        partition(make_rows(2, 2), scenario, 5, seed=0)
    with pytest.raises(DataError, match="at least 1"):
        partition(make_rows(2, 2), scenario, 0, seed=0)


def test_fewer_groups_than_clients() -> None:
    with pytest.raises(DataError, match=r"the 2 distinct values.*set 2 clients or fewer"):
        partition(make_rows(3, 3), "column", 3, seed=0)


def test_a_client_that_would_get_nothing() -> None:
    with pytest.raises(DataError, match="too few rows of task 'task 0'"):
        partition(make_rows(1, 5), "single", 4, seed=0)
