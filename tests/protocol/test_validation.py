from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import (
    AssignToNearest,
    ClientReply,
    ClientRequest,
    ClusterPrompts,
    ComparedLosses,
    Comparison,
    DetectNewTasks,
    EvaluateOrder,
    EvaluationReport,
    GroupByLabel,
    LabelScores,
    SingleAdapter,
    TrainOrder,
    Update,
)
from fedrouter.protocol.validation import ExpectedArrays, check_reply
from fedrouter.routing.types import Scatter, TaskGeometry, TaskProfile

A, B = "model.0.lora_A.weight", "model.0.lora_B.weight"
SHAPES = {A: (1, 2), B: (2, 1)}
EXPECTED = ExpectedArrays(SHAPES, dimension=2)
WEIGHTS = {A: np.ones((1, 2), np.float32), B: np.ones((2, 1), np.float32)}
UPDATE = Update(0, "a", WEIGHTS, samples=3, loss=1.0, tokens=5)
TRAIN = ClientRequest(1, 2, train=(TrainOrder(("a", "b"), 4),))
GOOD = ClientReply(1, 2, updates=(UPDATE,))


def test_a_good_reply_passes() -> None:
    check_reply(TRAIN, GOOD, EXPECTED)


def test_parts_of_an_adapter() -> None:
    task = ClientRequest(1, 2, train=(TrainOrder((), 4, send="B"),))
    part = replace(UPDATE, adapter=None, weights={B: WEIGHTS[B]})
    check_reply(task, ClientReply(1, 2, updates=(part,)), EXPECTED)
    with pytest.raises(MessageError, match="was not asked for"):
        check_reply(task, ClientReply(1, 2, updates=(replace(UPDATE, adapter=None),)), EXPECTED)


def of(name: str, array: np.ndarray) -> Update:
    return replace(UPDATE, weights={**WEIGHTS, name: array})


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (replace(UPDATE, slot=1), r"got those of orders \[1\]"),
        (replace(UPDATE, adapter="c"), "expected an adapter that its order names"),
        (replace(UPDATE, adapter=None), "expected an adapter that its order names"),
        (replace(UPDATE, weights={A: WEIGHTS[A]}), "lora_B.weight' is missing"),
        (of("x.lora_A.weight", WEIGHTS[A]), "was not asked for"),
        (of(A, np.ones((2, 2), np.float32)), r"of shape \(1, 2\), got float32 of shape \(2, 2\)"),
        (of(A, np.ones((1, 2), np.float64)), "got float64"),
        (replace(UPDATE, samples=0), "samples, got 0"),
        (replace(UPDATE, samples=10**12), "samples, got 1000000000000"),
        (replace(UPDATE, tokens=-1), "tokens, got -1"),
        (replace(UPDATE, loss=float("nan")), "got nan"),
        (replace(UPDATE, loss=-1.0), "got -1"),
    ],
)
def test_a_bad_update_is_refused(update: Update, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        check_reply(TRAIN, ClientReply(1, 2, updates=(update,)), EXPECTED)


@pytest.mark.parametrize("reply", [replace(GOOD, client=2), replace(GOOD, round=3)])
def test_a_reply_to_something_else(reply: ClientReply) -> None:
    with pytest.raises(MessageError, match="expected client 1 and round 2, got client"):
        check_reply(TRAIN, reply, EXPECTED)


PROFILE = TaskProfile(1, np.ones((1, 2), np.float32), (3,), (0.5,), (0.5,))


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (None, "profile: expected one, got none"),
        (replace(PROFILE, client=2), "of client 1, got 2"),
        (replace(PROFILE, centroids=np.ones(2, np.float32)), r"got float32 of shape \(2,\)"),
        (replace(PROFILE, centroids=np.ones((1, 3), np.float32)), r"got float32 of shape \(1, 3\)"),
        (replace(PROFILE, centroids=np.full((1, 2), np.inf, np.float32)), "finite centroids"),
        (replace(PROFILE, counts=(0,)), "samples, got 0"),
        (replace(PROFILE, counts=(10**12,)), "samples, got 1000000000000"),
        (replace(PROFILE, names=("x",)), "expected 0 task names, got 1"),
    ],
)
def test_a_bad_profile_is_refused(profile: TaskProfile | None, reason: str) -> None:
    task = ClientRequest(1, 0, profile=ClusterPrompts())
    check_reply(task, ClientReply(1, 0, profile=PROFILE), EXPECTED)
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 0, profile=profile), EXPECTED)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "1 task names, got 0"),
        (("x", "y"), "1 task names, got 2"),
        (("x" * 1000,), "at most 200 characters"),
    ],
)
def test_a_profile_by_name_names_each_local_task(names: tuple[str, ...], reason: str) -> None:
    task = ClientRequest(1, 0, profile=GroupByLabel())
    check_reply(task, ClientReply(1, 0, profile=replace(PROFILE, names=("x",))), EXPECTED)
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 0, profile=replace(PROFILE, names=names)), EXPECTED)


PLACED = AssignToNearest(
    TaskGeometry(tuple("abc"), np.ones((3, 2), np.float32), 1.0, 1.0, 1.0), scatter=True
)
SCATTER = Scatter(np.ones(3, np.float32), 1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tasks": ()}, "a different one of 3 global tasks"),
        ({"tasks": (3,)}, "a different one of 3 global tasks"),
        ({"tasks": (1, 1)}, "a different one of 3 global tasks"),
        ({"scatter": None}, "expected a scatter, got none"),
        (
            {"scatter": Scatter(np.ones(4, np.float32), 1.0)},
            r"shape \(3,\), got float32 of shape \(4,\)",
        ),
        ({"scatter": Scatter(np.ones(3), 1.0)}, "got float64"),
        ({"scatter": Scatter(np.full(3, np.nan, np.float32), 1.0)}, "finite numbers"),
        ({"scatter": Scatter(np.ones(3, np.float32), -1.0)}, "finite numbers"),
    ],
)
def test_a_refined_profile(changes: dict[str, Any], reason: str) -> None:
    task = ClientRequest(1, 0, profile=PLACED)
    good = replace(PROFILE, tasks=(2,), scatter=SCATTER)
    check_reply(task, ClientReply(1, 0, profile=good), EXPECTED)
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 0, profile=replace(good, **changes)), EXPECTED)
    with pytest.raises(MessageError, match="expected no global tasks, got 1"):
        asked = ClientRequest(1, 0, profile=ClusterPrompts())
        check_reply(asked, ClientReply(1, 0, profile=good), EXPECTED)


def test_new_tasks_are_named_where_they_may_be() -> None:
    two = replace(
        PROFILE,
        centroids=np.ones((3, 2), np.float32),
        counts=(1, 2, 3),
        second_moments=(0.5,) * 3,
        fourth_moments=(0.5,) * 3,
        tasks=(-1, 2, -1),
    )
    may = ClientRequest(1, 0, profile=DetectNewTasks(PLACED.geometry))
    check_reply(may, ClientReply(1, 0, profile=two), EXPECTED)
    for wrong in ((-1, -2, 0), (-1, 2, 2), (-1, 3, 0)):
        with pytest.raises(MessageError, match="a different one of 3 global tasks"):
            check_reply(may, ClientReply(1, 0, profile=replace(two, tasks=wrong)), EXPECTED)
    may_not = replace(may, profile=replace(PLACED, scatter=False))
    with pytest.raises(MessageError, match="a different one of 3 global tasks"):
        check_reply(may_not, ClientReply(1, 0, profile=two), EXPECTED)


def test_losses_answer_what_was_asked() -> None:
    asked = ClientRequest(1, 2, compare=(Comparison(0, ("a", "b")),))
    good = ComparedLosses(0, 5, 2.0, {"b": 1.0, "a": 1.5})
    check_reply(asked, ClientReply(1, 2, losses=(good,)), EXPECTED)
    for bad in (
        (),
        (replace(good, local_task=1),),
        (replace(good, adapters={"a": 1.0}),),
        (good, good),
    ):
        with pytest.raises(MessageError, match="expected those of 1 comparisons"):
            check_reply(asked, ClientReply(1, 2, losses=bad), EXPECTED)
    for loss in (np.nan, np.inf, -1.0):
        with pytest.raises(MessageError, match="expected a loss"):
            check_reply(asked, ClientReply(1, 2, losses=(replace(good, base=loss),)), EXPECTED)
    with pytest.raises(MessageError, match="samples, got 0"):
        check_reply(asked, ClientReply(1, 2, losses=(replace(good, samples=0),)), EXPECTED)


def test_changed_data_come_alone() -> None:
    check_reply(TRAIN, ClientReply(1, 2, changed=True), EXPECTED)
    with pytest.raises(MessageError, match="got more"):
        check_reply(TRAIN, replace(GOOD, changed=True), EXPECTED)


def test_what_was_not_asked_for() -> None:
    with pytest.raises(MessageError, match="profile: expected none, got one"):
        check_reply(TRAIN, replace(GOOD, profile=PROFILE), EXPECTED)


SCORES = {"local": {"x": LabelScores(2, {"loss": 1.0})}}


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        (None, "evaluation: expected one, got none"),
        (
            EvaluationReport({"local": {"x": LabelScores(2, {"loss": float("inf")})}}, {}, ()),
            "finite",
        ),
        (
            EvaluationReport({"local": {"x": LabelScores(0, {"loss": 1.0})}}, {}, ()),
            "test rows, got 0",
        ),
        (EvaluationReport(SCORES, {"task-00": {"x": -1}}, ()), "rows, got -1"),
        (EvaluationReport(SCORES, {}, ({"y" * 300: 1},)), "at most 200 characters"),
    ],
)
def test_a_bad_evaluation_is_refused(evaluation: EvaluationReport | None, reason: str) -> None:
    task = ClientRequest(1, 2, evaluate=EvaluateOrder(SingleAdapter(), ("local",)))
    good = EvaluationReport(SCORES, {"task-00": {"x": 2}}, ({"x": 3},))
    check_reply(task, ClientReply(1, 2, evaluation=good), EXPECTED)
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 2, evaluation=evaluation), EXPECTED)
