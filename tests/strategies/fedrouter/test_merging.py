"""Which tasks are one, and what becomes of the state, by hand."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from support.three_tasks import NAMES, arrived, method, state

from fedrouter.routing.history import Event
from fedrouter.strategies import TaskState
from fedrouter.strategies.fedrouter.merging import (
    drop_empty,
    merge_groups,
    merge_small,
    merge_tasks,
)


def test_what_serves_both_ways_is_one_task() -> None:
    both, one_way, unknown = 0.2, 0.9, np.inf
    found = np.array([[0, both, one_way], [0.1, 0, 0.0], [0.0, unknown, 0]])
    assert merge_groups(found) == [[0, 1], [2]]


def test_what_is_one_with_two_that_differ_goes_to_the_nearer_only() -> None:
    chain = np.array([[0, 0.1, 0.9], [0.1, 0, 0.2], [0.9, 0.2, 0]])
    assert merge_groups(chain) == [[0, 1], [2]]


@given(
    some.integers(1, 6).flatmap(
        lambda n: arrays(float, (n, n), elements=some.sampled_from([0.0, 0.2, 0.3, np.inf]))
    )
)
def test_no_group_holds_tasks_that_do_not_serve_each_other(found: np.ndarray) -> None:
    groups = merge_groups(found)
    assert sorted(t for one in groups for t in one) == list(range(len(found)))
    for one in groups:
        assert all(found[t, u] <= 0.25 for t in one for u in one if t != u)


def absorb(relative_regret: list[list[float]], *sizes: int) -> list[list[int]]:
    return merge_small([[t] for t in range(len(sizes))], np.array(relative_regret), sizes)


def test_a_small_group_goes_to_a_larger_one_that_serves_it() -> None:
    by_heart = [[0, 0.1], [9, 0]]  # task 0's adapter serves nobody else
    assert absorb(by_heart, 10, 20) == [[1, 0]]
    assert absorb(by_heart, 10, 19) == [[0], [1]]
    assert absorb(by_heart, 20, 10) == [[0], [1]]
    assert absorb(by_heart, 99, 500) == [[1, 0]]
    assert absorb(by_heart, 100, 500) == [[0], [1]]
    assert absorb([[0, 0.3], [9, 0]], 10, 20) == [[0], [1]]
    assert absorb([[0, np.inf], [9, 0]], 10, 20) == [[0], [1]]


def test_a_small_group_goes_where_it_is_served_best() -> None:
    assert absorb([[0, 0.2, 0.1], [9, 0, 9], [9, 9, 0]], 1, 20, 10) == [[1], [2, 0]]
    # Task 1 would serve 0, and 2 serve 1, but 2 not 0.
    assert absorb([[0, 0.1, 9], [9, 0, 0.1], [9, 9, 0]], 1, 9, 90) == [[1, 0], [2]]


def test_merged_tasks_serve_as_they_do_on_average() -> None:
    for other, expected in ((0.3, [[1, 2, 0]]), (0.5, [[0], [1, 2]])):
        found = np.array([[0, 0.1, other], [9, 0, 0], [9, 0, 0]])
        assert merge_small(merge_groups(found), found, [10, 10, 10]) == expected


def test_a_merged_task_is_the_eldest_with_the_mean_of_all() -> None:
    after = merge_tasks(state(), [[0, 1], [2]])
    assert list(after.adapters) == ["task-00", "task-02"]
    mean = (30 * 0 + 10 * 1) / 40
    assert after.adapters["task-00"]["a.lora_A.weight"].tolist() == [[mean, mean]]
    assert after.router is not None
    assert after.router.geometry.tasks == ("task-00", "task-02")
    assert after.router.geometry.centroids.tolist() == [[0.25, 0], [9, 0]]
    assert after.assignment == {0: ("task-00", "task-00"), 1: ("task-00", "task-02")}
    assert after.history == (Event(1, "merged", "task-01", "task-00"),)
    again = TaskState.unpack(*after.pack())
    assert (again.history, again.pending) == (after.history, ("compare",))


def test_nothing_merged_changes_nothing() -> None:
    after = merge_tasks(state(), [[0], [1], [2]])
    assert after.history == ()
    assert after.adapters.keys() == state().adapters.keys()
    assert after.assignment == state().assignment


def test_an_id_is_never_given_twice() -> None:
    after = merge_tasks(replace(state(), pending=()), [[0], [1, 2]])
    assert list(after.adapters) == ["task-00", "task-01"]
    after = method().add_client(after, arrived((0, 1, -1)))
    assert after.assignment[2] == ("task-00", "task-01", "task-03")
    assert after.history[-1] == Event(1, "created", "task-03", "task-01")
    after = drop_empty(replace(state(), assignment={0: NAMES[:2]}, counts={0: (30, 5)}))
    assert after.history == (Event(1, "removed", "task-02"),)
    assert method().add_client(after, arrived((0, 1, -1))).assignment[2][-1] == "task-03"


def test_a_group_without_samples_is_no_task() -> None:
    left = drop_empty(replace(state(), assignment={0: NAMES[:2]}, counts={0: (30, 5)}))
    assert list(left.adapters) == ["task-00", "task-01"]
    assert left.router is not None
    assert left.router.geometry.centroids.tolist() == [[0, 0], [1, 0]]
