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
    with pytest.raises(MessageError, match="not one that was asked for"):
        check_reply(task, ClientReply(1, 2, updates=(replace(UPDATE, adapter=None),)), EXPECTED)


def of(name: str, array: np.ndarray) -> Update:
    return replace(UPDATE, weights={**WEIGHTS, name: array})


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (replace(UPDATE, slot=1), "do not answer"),
        (replace(UPDATE, adapter="c"), "does not name"),
        (replace(UPDATE, adapter=None), "does not name"),
        (replace(UPDATE, weights={A: WEIGHTS[A]}), "lora_B.weight' is missing"),
        (of("x.lora_A.weight", WEIGHTS[A]), "not one that was asked for"),
        (of(A, np.ones((2, 2), np.float32)), r"shape \(2, 2\), not float32 of shape \(1, 2\)"),
        (of(A, np.ones((1, 2), np.float64)), "float64"),
        (of(A, np.array([[np.nan, 1]], np.float32)), "not finite"),
        (of(A, np.array([[np.inf, 1]], np.float32)), "not finite"),
        (of(A, np.array([[1e7, 1]], np.float32)), "beyond 1e\\+06"),
        (replace(UPDATE, samples=0), "0 samples"),
        (replace(UPDATE, samples=10**12), "1000000000000 samples"),
        (replace(UPDATE, tokens=-1), "-1 tokens"),
        (replace(UPDATE, loss=float("nan")), "loss of nan"),
        (replace(UPDATE, loss=-1.0), r"loss of -1\.0"),
    ],
)
def test_a_bad_update_is_refused(update: Update, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        check_reply(TRAIN, ClientReply(1, 2, updates=(update,)), EXPECTED)


@pytest.mark.parametrize("reply", [replace(GOOD, client=2), replace(GOOD, round=3)])
def test_a_reply_to_something_else(reply: ClientReply) -> None:
    with pytest.raises(MessageError, match="not for client 1 and round 2"):
        check_reply(TRAIN, reply, EXPECTED)


PROFILE = TaskProfile(1, np.ones((1, 2), np.float32), (3,), (0.5,), (0.5,))


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (None, "profile is missing"),
        (replace(PROFILE, client=2), "that of client 2"),
        (replace(PROFILE, centroids=np.ones(2, np.float32)), "float32 matrix"),
        (replace(PROFILE, centroids=np.ones((1, 3), np.float32)), r"shape \(1, 3\)"),
        (replace(PROFILE, centroids=np.full((1, 2), np.inf, np.float32)), "not finite"),
        (replace(PROFILE, counts=(0,)), "without samples"),
        (replace(PROFILE, counts=(10**12,)), "absurdly many"),
        (replace(PROFILE, names=("x",)), "names unasked"),
    ],
)
def test_a_bad_profile_is_refused(profile: TaskProfile | None, reason: str) -> None:
    task = ClientRequest(1, 0, profile=ClusterPrompts())
    check_reply(task, ClientReply(1, 0, profile=PROFILE), EXPECTED)
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 0, profile=profile), EXPECTED)


@pytest.mark.parametrize(
    ("names", "reason"),
    [((), "names not each"), (("x", "y"), "names not each"), (("x" * 1000,), "too long")],
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
        ({"tasks": ()}, "names not one global task"),
        ({"tasks": (3,)}, "names not one global task"),
        ({"tasks": (1, 1)}, "names not one global task"),
        ({"scatter": None}, "lacks its scatter"),
        ({"scatter": Scatter(np.ones(4, np.float32), 1.0)}, "not that of 2 dimensions"),
        ({"scatter": Scatter(np.ones(3), 1.0)}, "not that of 2 dimensions"),
        ({"scatter": Scatter(np.full(3, np.nan, np.float32), 1.0)}, "not finite"),
        ({"scatter": Scatter(np.ones(3, np.float32), -1.0)}, "not finite"),
    ],
)
def test_a_refined_profile(changes: dict[str, Any], reason: str) -> None:
    task = ClientRequest(1, 0, profile=PLACED)
    good = replace(PROFILE, tasks=(2,), scatter=SCATTER)
    check_reply(task, ClientReply(1, 0, profile=good), EXPECTED)
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 0, profile=replace(good, **changes)), EXPECTED)
    with pytest.raises(MessageError, match=r"names not one|unasked"):
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
        with pytest.raises(MessageError, match="names not one global task"):
            check_reply(may, ClientReply(1, 0, profile=replace(two, tasks=wrong)), EXPECTED)
    may_not = replace(may, profile=replace(PLACED, scatter=False))
    with pytest.raises(MessageError, match="names not one global task"):
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
        with pytest.raises(MessageError, match="do not answer the comparisons"):
            check_reply(asked, ClientReply(1, 2, losses=bad), EXPECTED)
    for loss in (np.nan, np.inf, -1.0):
        with pytest.raises(MessageError, match="not possible"):
            check_reply(asked, ClientReply(1, 2, losses=(replace(good, base=loss),)), EXPECTED)
    with pytest.raises(MessageError, match="0 samples"):
        check_reply(asked, ClientReply(1, 2, losses=(replace(good, samples=0),)), EXPECTED)


def test_changed_data_come_alone() -> None:
    check_reply(TRAIN, ClientReply(1, 2, changed=True), EXPECTED)
    with pytest.raises(MessageError, match="more in the reply"):
        check_reply(TRAIN, replace(GOOD, changed=True), EXPECTED)


def test_what_was_not_asked_for() -> None:
    with pytest.raises(MessageError, match="profile was not asked for"):
        check_reply(TRAIN, replace(GOOD, profile=PROFILE), EXPECTED)


SCORES = {"local": {"x": LabelScores(2, {"loss": 1.0})}}


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        (None, "evaluation is missing"),
        (
            EvaluationReport({"local": {"x": LabelScores(2, {"loss": float("inf")})}}, {}, ()),
            "finite",
        ),
        (EvaluationReport({"local": {"x": LabelScores(0, {"loss": 1.0})}}, {}, ()), "0 test rows"),
        (EvaluationReport(SCORES, {"task-00": {"x": -1}}, ()), "-1 rows"),
        (EvaluationReport(SCORES, {}, ({"y" * 300: 1},)), "too long"),
    ],
)
def test_bad_findings_are_refused(evaluation: EvaluationReport | None, reason: str) -> None:
    task = ClientRequest(1, 2, evaluate=EvaluateOrder(SingleAdapter(), ("local",)))
    good = EvaluationReport(SCORES, {"task-00": {"x": 2}}, ({"x": 3},))
    check_reply(task, ClientReply(1, 2, evaluation=good), EXPECTED)
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 2, evaluation=evaluation), EXPECTED)
