"""Regret, comparisons, and the exchanges between rounds, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from support.three_tasks import NAMES, arrived, method, reply, state

from fedrouter.protocol.messages import ClientReply, ComparedLosses
from fedrouter.protocol.profile_orders import DetectNewTasks
from fedrouter.routing.history import Event
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.strategies.fedrouter.comparing import neighbors, relative_regret


def test_costs_are_shares_of_what_the_own_adapter_gives() -> None:
    found = relative_regret(
        state(),
        [
            # The own adapter of task-00 takes 4 off the base model's loss; task-01's takes 3.
            reply(0, ComparedLosses(0, 10, 5.0, {"task-00": 1.0, "task-01": 2.0})),
            # On task-01 two clients report; the upper one of two counts, whatever their samples.
            reply(1, ComparedLosses(0, 30, 3.0, {"task-01": 1.0, "task-00": 2.0, "task-02": 0.5})),
            reply(0, ComparedLosses(1, 10, 3.0, {"task-01": 1.0, "task-00": 4.0})),
        ],
    )
    assert found[0].tolist() == [0, 0.25, np.inf]
    # For task-02 there is the word of one of two clients only.
    assert found[1].tolist() == [max(1 / 2, 3 / 2), 0, np.inf]
    assert found[2].tolist() == [np.inf] * 3


def test_the_median_of_three_clients_outvotes_one() -> None:
    """Three clients have task-00; one says that task-01's adapter serves it as well, two that it
    costs 0.5 and 0.75 of what the own adapter gives."""
    everyone = dict.fromkeys((0, 1, 2), ("task-00",))
    three = replace(state(), assignment=everyone, counts=dict.fromkeys(everyone, (9,)))
    replies = [
        reply(client, ComparedLosses(0, 9, 5.0, {"task-00": 1.0, "task-01": loss}))
        for client, loss in ((0, 1.0), (1, 3.0), (2, 4.0))
    ]
    assert relative_regret(three, replies)[0, 1] == 0.5


def test_one_client_alone_merges_no_tasks_that_others_have() -> None:
    """Client 0 says that it has all tasks and that all adapters are alike; client 1, which has
    task-01 and task-02, says nothing, or the truth."""
    liar = replace(state(), assignment={0: NAMES, 1: NAMES[1:]}, counts={0: (500,) * 3, 1: (5, 20)})
    alike = dict.fromkeys(NAMES, 1.0)
    lies = reply(0, *(ComparedLosses(j, 32, 5.0, alike) for j in range(3)))
    truth = reply(
        1,
        ComparedLosses(0, 5, 5.0, {"task-01": 1.0, "task-00": 4.0, "task-02": 4.0}),
        ComparedLosses(1, 20, 5.0, {"task-02": 1.0, "task-00": 4.0, "task-01": 4.0}),
    )
    for replies in ([lies], [lies, truth]):
        assert list(method().apply_auxiliary(liar, replies).adapters) == list(NAMES)


def test_a_client_has_a_bounded_number_of_new_tasks_to_itself() -> None:
    """Of six new local tasks, four become tasks; the others are assigned to the nearest task."""
    centroids = np.array([[40 * j, 0] for j in range(1, 7)], np.float32)
    profile = TaskProfile(2, centroids, (9,) * 6, (1.0,) * 6, (1.0,) * 6, tasks=(-1,) * 6)
    before = replace(state(), pending=())
    after = method().aggregate(before, 2, [ClientReply(2, 2, profile=profile)])
    assert len(after.adapters) == 3 + 4
    assert after.assignment[2][4:] == ("task-02", "task-02")
    again = method().aggregate(after, 3, [ClientReply(2, 3, changed=True)])
    again = method().aggregate(again, 4, [ClientReply(2, 4, profile=profile)])
    assert len(again.adapters) == 3 + 4


def test_an_adapter_that_gives_nothing_is_replaced_by_a_better_one_only() -> None:
    told = ComparedLosses(0, 10, 1.0, {"task-00": 2.0, "task-01": 1.9, "task-02": 2.1})
    assert relative_regret(state(), [reply(0, told)])[0].tolist() == [0, 0, np.inf]


def test_a_late_client_brings_new_tasks() -> None:
    [ask] = [task for task in method().plan(state(), 2, [0, 1, 2]) if task.profile]
    assert ask.client == 2
    assert isinstance(ask.profile, DetectNewTasks)
    before = replace(state(), pending=())
    after = method().aggregate(before, 2, [ClientReply(2, 2, profile=arrived((1, -1, -1)))])
    assert after.assignment[2] == ("task-01", "task-03", "task-04")
    assert {c: after.assignment[c] for c in (0, 1)} == before.assignment
    assert after.history == (
        Event(2, "created", "task-03", "task-02"),
        Event(2, "created", "task-04", "task-03"),
    )
    assert after.router is not None
    assert after.router.geometry.centroids[:, 0].tolist() == [0, 1, 9, 40, 80]
    for name in NAMES:
        assert after.adapters[name] is before.adapters[name]
    assert after.adapters["task-03"] is before.adapters["task-02"]
    # They train in round 3 and are on trial after it, like the groups of the first round.
    trained = method().aggregate(after, 3, [])
    assert trained.pending == ("compare",)
    assert method().apply_auxiliary(trained, []).pending == ("reassign", "assign")
    assert method().aggregate(replace(trained, pending=()), 5, []).pending == ()


def test_a_client_whose_data_changed_is_profiled_anew() -> None:
    after = method().aggregate(replace(state(), pending=()), 2, [ClientReply(1, 2, changed=True)])
    assert after.assignment.keys() == after.counts.keys() == {0}
    assert list(after.adapters) == list(NAMES)  # task-02 is served, though nobody holds it
    asked = {task.client: task.profile for task in method().plan(after, 3, [0, 1])}
    assert asked[0] is None
    assert asked[1] is not None
    rule = method().serve(after, 0)
    assert "task-02" in rule.needs


def test_neighbors_are_mutual() -> None:
    assert neighbors(state()) == {
        "task-00": ["task-01", "task-02"],
        "task-01": ["task-00", "task-02"],
        "task-02": ["task-00", "task-01"],
    }
    line = TaskGeometry(
        tuple(f"t{i}" for i in range(7)), np.arange(7, dtype=np.float32)[:, None] ** 2, 1, 1, 1
    )
    near = neighbors(replace(state(), router=Router(line, "base")))
    assert all(task in near[other] for task, others in near.items() for other in others)
    assert near["t6"] == ["t3", "t4", "t5"]


def test_a_task_is_compared_on_clients_that_have_most_of_it() -> None:
    tasks = method().auxiliary_requests(replace(state(), counts={0: (30, 5), 1: (6, 20)}), [0, 1])
    assert [task.client for task in tasks] == [0, 1]
    asked = {(task.client, one.adapters[0]): one for task in tasks for one in task.compare}
    assert asked.keys() == {(0, "task-00"), (0, "task-01"), (1, "task-01"), (1, "task-02")}
    assert asked[1, "task-02"].local_task == 1
    assert {*asked[1, "task-02"].adapters} == {*NAMES}
    assert all(task.adapters.keys() == {*NAMES} for task in tasks)
    assert method().auxiliary_requests(state(), [1])[0].client == 1
    five = dict.fromkeys(range(5), ("task-00",))
    counts = {0: (4,), 1: (9,), 2: (5,), 3: (9,), 4: (8,)}
    tasks = method().auxiliary_requests(replace(state(), assignment=five, counts=counts), range(5))
    assert [task.client for task in tasks] == [1, 3, 4]


def test_a_comparison_leads_to_merges_and_to_new_groups() -> None:
    same = {"task-00": 1.0, "task-01": 1.0, "task-02": 9.0}
    replies = [
        reply(0, ComparedLosses(0, 9, 5.0, same), ComparedLosses(1, 9, 5.0, same)),
        reply(
            1,
            ComparedLosses(0, 9, 5.0, same),
            ComparedLosses(1, 9, 5.0, {"task-02": 1.0, "task-00": 9.0, "task-01": 9.0}),
        ),
    ]
    after = method().apply_auxiliary(state(), replies)
    assert list(after.adapters) == ["task-00", "task-02"]
    assert after.pending == ("reassign", "assign")
    [first, second] = method().auxiliary_requests(after, [0, 1])
    assert first.profile is not None
    assert first.profile.adapters == ("task-00",)
    assert second.profile is not None
    assert second.profile.adapters == ("task-00", "task-02")
    assert second.adapters.keys() == {"task-00", "task-02"}
    profile = TaskProfile(0, np.ones((1, 2), np.float32), (35,), (1.0,), (1.0,), tasks=(1,))
    placed = method().apply_auxiliary(after, [ClientReply(0, 1, profile=profile)])
    # Client 0 no longer holds task-00; client 1, which did not answer, held both.
    assert list(placed.adapters) == ["task-00", "task-02"]
    assert placed.pending == ("assign",)
    alone = replace(after, assignment={0: ("task-00",)}, counts={0: (35,)})
    placed = method().apply_auxiliary(alone, [ClientReply(0, 1, profile=profile)])
    assert list(placed.adapters) == ["task-02"]
    later = method().apply_auxiliary(replace(alone, round=3), [ClientReply(0, 3, profile=profile)])
    assert list(later.adapters) == ["task-00", "task-02"]


@pytest.mark.parametrize(("round", "merges", "pending"), [(4, True, ("assign",)), (4, False, ())])
def test_later_the_places_follow_a_merge_only(
    round: int, merges: bool, pending: tuple[str, ...]
) -> None:
    loss = 1.0 if merges else 9.0
    replies = [
        reply(
            0,
            ComparedLosses(0, 9, 5.0, {"task-00": 1.0, "task-01": loss}),
            ComparedLosses(1, 9, 5.0, {"task-01": 1.0, "task-00": loss}),
        ),
        reply(1, ComparedLosses(0, 9, 5.0, {"task-01": 1.0, "task-00": loss})),
    ]
    assert method().apply_auxiliary(state(round), replies).pending == pending


def test_tasks_are_compared_after_rounds_that_are_powers_of_two() -> None:
    pending = [
        bool(method().aggregate(replace(state(), pending=()), r, []).pending) for r in range(1, 10)
    ]
    assert pending == [True, True, False, True, False, False, False, False, False]


@pytest.mark.parametrize(("event", "pending"), [(3, False), (4, True), (6, True)])
def test_tasks_are_compared_again_only_where_some_came_or_merged(event: int, pending: bool) -> None:
    merged_then = (Event(event, "merged", "task-03", "task-00"),)
    before = replace(state(), pending=(), history=merged_then)
    assert bool(method().aggregate(before, 8, []).pending) == pending


def test_the_last_round_is_followed_by_no_comparison() -> None:
    assert (
        method("federation.rounds=4").aggregate(replace(state(), pending=()), 4, []).pending == ()
    )


@pytest.mark.parametrize(("clients", "groups"), [(1, 1), (5, 5), (99, 16)])
def test_there_are_at_most_half_as_many_groups_as_local_ones(clients: int, groups: int) -> None:
    draws = np.random.default_rng(0)
    profiles = [
        TaskProfile(c, draws.normal(size=(2, 2)).astype(np.float32), (9, 9), (1.0,) * 2, (1.0,) * 2)
        for c in range(clients)
    ]
    assert method().number_of_tasks(profiles) == groups


def test_a_client_holds_groups_on_trial_that_it_has_enough_of() -> None:
    assert method().assign_order(state(1)).min_samples == 8
    assert method().assign_order(state(2)).min_samples == 1


def test_groups_on_trial_share_the_steps_of_tasks() -> None:
    assert [order.steps for order in method().orders(state(0), 1, 0)] == [2, 2]
    assert [order.steps for order in method().orders(state(), 2, 0)] == [5, 5]
    few = replace(state(), counts={0: (30, 3)})
    assert [order.steps for order in method().orders(few, 2, 0)] == [5, 3]
    told = method("clustering.n_local=1")
    assert sum(order.steps for order in told.orders(state(), 2, 0)) == 5
