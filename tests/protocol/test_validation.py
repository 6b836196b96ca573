from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import (
    FRACTIONS,
    ClientReply,
    ClientRequest,
    ComparedLosses,
    Comparison,
    EvaluateOrder,
    EvaluationReport,
    LabelScores,
    TrainOrder,
    Update,
)
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    ClusterPrompts,
    DescribeEmbeddings,
    DetectNewTasks,
    GroupByLabel,
    ProfileOrder,
    ReassignByLoss,
)
from fedrouter.protocol.profile_validation import largest_number
from fedrouter.protocol.serving_rules import RouteByTask
from fedrouter.protocol.validation import ExpectedArrays, check_reply
from fedrouter.routing import whitening
from fedrouter.routing.clustering import cluster
from fedrouter.routing.types import Scatter, Standardization, TaskGeometry, TaskProfile

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
SCATTER = Scatter(np.ones(3, np.float32), 2.0)


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
        ({"scatter": Scatter(np.ones(3, np.float32), -1.0)}, "fourth powers from 1.333"),
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
        counts=(2, 2, 3),
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


def scores(rows: int = 2, **changes: float) -> LabelScores:
    fractions = dict.fromkeys(FRACTIONS, 0.5)
    return LabelScores(rows, {**fractions, "loss": 1.0, **changes})


def report(**changes: Any) -> EvaluationReport:
    good = EvaluationReport(
        {"local": {"x": scores()}}, {"a": {"x": 1}, "c": {"x": 1}}, ({"x": 2, "y": 1}, {"x": 2})
    )
    return replace(good, **changes)


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        (None, "evaluation: expected one, got none"),
        (report(scores={"local": {"x": scores(loss=float("inf"))}}), "got inf"),
        (report(scores={"local": {"x": scores(rouge1=1.5)}}), "from 0 to 1"),
        (report(scores={"local": {"x": scores(rouge1=float("nan"))}}), "from 0 to 1"),
        (report(scores={"local": {"x": scores(fame=1.0)}}), "expected the scores rouge1"),
        (report(scores={"local": {"x": LabelScores(2, {"loss": 1.0})}}), "expected the scores"),
        (report(scores={"local": {"x": scores(rows=0)}}), "test rows, got 0"),
        (report(scores={"local": {}}), "in scope local, got none"),
        (report(scores={"global": {"x": scores()}}), "expected scores in the scopes local"),
        (report(routed={"a": {"x": -1}}), "rows, got -1"),
        (report(routed={"d": {"x": 1}}), "routed to some of 3 tasks"),
        (report(local_tasks=({"y" * 300: 1},)), "at most 200 characters"),
        (report(local_tasks=({"x": 2, "y": 2},)), "at most 3 rows of a task, got 4"),
        (report(local_tasks=({}, {}, {})), "at most 2 local tasks, got 3"),
    ],
)
def test_a_bad_evaluation_is_refused(evaluation: EvaluationReport | None, reason: str) -> None:
    rule = RouteByTask(PLACED.geometry, ("a",))
    task = ClientRequest(1, 2, evaluate=EvaluateOrder(rule, ("local",)))
    check_reply(task, ClientReply(1, 2, evaluation=report()), EXPECTED, counts=(3, 2))
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 2, evaluation=evaluation), EXPECTED, counts=(3, 2))


def test_samples_are_at_most_those_of_the_profile() -> None:
    order = TrainOrder(("a",), 4, local_task=1)
    for one, most in ((order, 2), (replace(order, local_task=None), 5)):
        task = ClientRequest(1, 2, train=(one,))
        for samples in (1, most):
            update = replace(UPDATE, samples=samples)
            check_reply(task, ClientReply(1, 2, updates=(update,)), EXPECTED, counts=(3, 2))
        more = ClientReply(1, 2, updates=(replace(UPDATE, samples=most + 1),))
        check_reply(task, more, EXPECTED)
        with pytest.raises(MessageError, match=f"expected 1 to {most} samples, got {most + 1}"):
            check_reply(task, more, EXPECTED, counts=(3, 2))
    asked = ClientRequest(1, 2, compare=(Comparison(1, ("a",)),))
    losses = ComparedLosses(1, 3, 2.0, {"a": 1.0})
    with pytest.raises(MessageError, match="expected 1 to 2 samples, got 3"):
        check_reply(asked, ClientReply(1, 2, losses=(losses,)), EXPECTED, counts=(3, 2))


@pytest.mark.parametrize(
    ("order", "n_local", "most"),
    [
        (ClusterPrompts(), 2, 2),
        (ClusterPrompts(), "auto", 8),
        (ClusterPrompts(), None, 1000),
        (DescribeEmbeddings(), "auto", 1),
        (AssignToStarts((np.ones((2, 2), np.float32), np.ones((3, 2), np.float32))), 2, 5),
        (DetectNewTasks(PLACED.geometry), "auto", 8),
        (PLACED, 2, 2),
        (PLACED, "auto", 3),
        (ReassignByLoss(PLACED.geometry, ("a", "b")), "auto", 2),
        (GroupByLabel(), 2, 1000),
    ],
)
def test_local_tasks_are_at_most_as_many_as_asked_for(
    order: ProfileOrder, n_local: Any, most: int
) -> None:
    assert largest_number(order, n_local) == most


def test_moments_do_not_contradict_each_other() -> None:
    # Distances 0, 0 and 3: their mean is 1, that of their squares 3, the most of 3 distances.
    task = ClientRequest(1, 0, profile=ClusterPrompts())
    for second, fourth in ((1.0, 1.0), (1.0, 3.0), (0.0, 0.0)):
        fits = replace(PROFILE, second_moments=(second,), fourth_moments=(fourth,))
        check_reply(task, ClientReply(1, 0, profile=fits), EXPECTED)
    for second, fourth in ((1.0, 0.9), (1.0, 3.1), (0.0, 1.0), (1.0, np.nan), (1.0, 1e300)):
        bad = replace(PROFILE, second_moments=(second,), fourth_moments=(fourth,))
        with pytest.raises(MessageError, match="expected a fourth moment from"):
            check_reply(task, ClientReply(1, 0, profile=bad), EXPECTED)


@pytest.mark.parametrize(
    ("products", "fourth", "reason"),
    [
        ([1, 2, 1], 2.0, "without negative eigenvalues"),  # eigenvalues 3 and -1
        ([-1, 0, -1], 2.0, "without negative eigenvalues"),
        ([1e30, 0, 1e30], 1e60, "a trace up to 3e"),
        ([1, 0, 1], 1.3, "from 1.333"),  # a trace of 2 in 3 samples: 4 / 3 to 4
        ([1, 0, 1], 4.1, "to 4"),
    ],
)
def test_a_scatter_is_a_covariance(products: list[float], fourth: float, reason: str) -> None:
    task = ClientRequest(1, 0, profile=PLACED)
    scatter = Scatter(np.array(products, np.float32), fourth)
    bad = replace(PROFILE, tasks=(2,), scatter=scatter)
    with pytest.raises(MessageError, match=reason):
        check_reply(task, ClientReply(1, 0, profile=bad), EXPECTED)


STANDARD = Standardization(np.zeros(2, np.float32), np.ones(2, np.float32))


def test_variances_add_up_to_the_second_moment() -> None:
    task = ClientRequest(1, 0, profile=DescribeEmbeddings())
    for variances, fault in (
        ([0.2, 0.3], None),
        ([0.2, 0.4], "with the sum 0.5"),
        ([0.7, -0.2], "not negative"),
        ([0.5], r"of shape \(2,\)"),
    ):
        profile = replace(PROFILE, variances=np.array(variances, np.float32))
        reply = ClientReply(1, 0, profile=profile)
        with nullcontext() if fault is None else pytest.raises(MessageError, match=fault):
            check_reply(task, reply, EXPECTED)
    with pytest.raises(MessageError, match="expected variances, got none"):
        check_reply(task, ClientReply(1, 0, profile=PROFILE), EXPECTED)


def test_centroids_of_unit_vectors_are_not_longer() -> None:
    task = ClientRequest(1, 0, profile=ClusterPrompts(STANDARD))
    with pytest.raises(MessageError, match="vectors of length 1"):
        check_reply(task, ClientReply(1, 0, profile=PROFILE), EXPECTED)
    shorter = replace(PROFILE, centroids=np.full((1, 2), 0.7, np.float32))
    check_reply(task, ClientReply(1, 0, profile=shorter), EXPECTED)


def test_every_start_has_all_samples() -> None:
    starts = (np.zeros((2, 2), np.float32), np.ones((1, 2), np.float32))
    task = ClientRequest(1, 0, profile=AssignToStarts(starts))
    three = {
        "centroids": np.ones((3, 2), np.float32),
        "second_moments": (0.0,) * 3,
        "fourth_moments": (0.0,) * 3,
        "tasks": (0, 1, 2),
    }
    for counts, fits in (((1, 2, 3), True), ((1, 2, 4), False)):
        reply = ClientReply(1, 0, profile=replace(PROFILE, counts=counts, **three))
        fault = pytest.raises(MessageError, match="in each of 2 starts, got 3 to 4")
        with nullcontext() if fits else fault:
            check_reply(task, reply, EXPECTED)


@settings(max_examples=30)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-1e3, 1e3))
)
def test_what_a_client_computes_of_its_samples_is_accepted(points: np.ndarray) -> None:
    points = points.astype(np.float32)
    found = cluster(points, 3, seed=0)
    profile = TaskProfile(
        1,
        found.centroids,
        tuple(found.counts.tolist()),
        tuple(found.second_moments.tolist()),
        tuple(found.fourth_moments.tolist()),
        tasks=tuple(range(len(found.counts))),
        scatter=whitening.scatter(points, found.labels, np.eye(3)),
    )
    geometry = TaskGeometry(tuple("abc"), np.ones((3, 3), np.float32), 1.0, 1.0, 1.0)
    task = ClientRequest(1, 0, profile=AssignToNearest(geometry, scatter=True))
    check_reply(task, ClientReply(1, 0, profile=profile), ExpectedArrays(SHAPES, 3, 3))


def test_the_largest_reply() -> None:
    # Of each tensor 2 numbers, one more of 4 bits and 2 scales, twice; 1000 centroids, variances;
    # a scatter of 3.
    assert EXPECTED.largest_reply(replace(TRAIN, train=TRAIN.train * 2)) == 4 * 2 * (5 + 5)
    profile = ClientRequest(1, 0, profile=ClusterPrompts())
    assert EXPECTED.largest_reply(profile) == 4 * (1001 * 2 + 3)
