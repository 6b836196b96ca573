import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fedrouter.errors import AdapterError, ModelError, RunError
from fedrouter.routing.router import Router, mixtures
from fedrouter.routing.types import AdapterMixture, RoutingPolicy, TaskGeometry

TASKS = ("task-00", "task-01", "task-02")


def make(variance: float = 2.0) -> Router:
    centroids = np.array([[0, 0], [4, 0], [0, 3]], np.float32)
    return Router(TaskGeometry(TASKS, centroids, 4.0, 2.0, variance), "abc")


def points(*rows: tuple[float, float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def test_routes_by_hand() -> None:
    routes = make().route(points((1, 0), (4, 1), (0, 3)))
    assert routes.tasks == TASKS
    np.testing.assert_allclose(routes.distances[0], [1, 3, np.sqrt(10)])
    # squared distances 1, 9, 10; softmax of -1/4, -9/4, -10/4
    np.testing.assert_allclose(routes.confidence[0], 1 / (1 + np.exp(-2) + np.exp(-9 / 4)))


def test_only_allowed_tasks_are_chosen_and_compete() -> None:
    routes = make().route(points((1, 0), (2, 0)), allowed=["task-02", "task-01"])
    assert routes.tasks == ("task-01", "task-01")
    assert routes.distances.shape == (2, 3)
    np.testing.assert_allclose(routes.confidence[0], 1 / (1 + np.exp(-1 / 4)))


def test_one_allowed_task_is_certain() -> None:
    assert make().route(points((9, 9)), allowed=["task-01"]).confidence.tolist() == [1.0]


def test_a_tie_goes_to_the_first_task_whatever_the_order_of_the_allowed() -> None:
    for allowed in (None, ["task-01", "task-00"]):
        routes = make().route(points((2, -1)), allowed)
        assert routes.tasks == ("task-00",)
    assert routes.confidence.tolist() == [0.5]


@pytest.mark.filterwarnings("error")
def test_without_spread_the_nearest_is_certain() -> None:
    routes = make(0.0).route(points((1, 0), (2, 0), (1e6, 0)))
    assert routes.confidence.tolist() == [1.0, 0.5, 1.0]


def test_no_prompts_give_no_routes() -> None:
    routes = make().route(np.zeros((0, 2), np.float32))
    assert routes.tasks == ()
    assert routes.confidence.shape == (0,)
    assert routes.distances.shape == (0, 3)


@given(
    st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 2), min_size=1, max_size=5),
    st.lists(st.sampled_from(TASKS), min_size=1),
    st.floats(0, 1e6),
)
def test_the_choice_is_a_nearest_allowed_task(
    rows: list[tuple[float, float]], allowed: list[str], variance: float
) -> None:
    routes = make(variance).route(points(*rows), allowed)
    for task, confidence, distances in zip(
        routes.tasks, routes.confidence, routes.distances, strict=True
    ):
        assert task in allowed
        nearest = min(distances[TASKS.index(a)] for a in allowed)
        assert distances[TASKS.index(task)] == pytest.approx(nearest, rel=1e-12)  # a tie, rounded
        assert 1 / len(set(allowed)) - 1e-9 <= confidence <= 1


def test_unknown_and_missing_names_are_refused() -> None:
    with pytest.raises(AdapterError, match=r"'tsak-02'; did you mean 'task-02'\?"):
        make().route(points((0, 0)), ["tsak-02"])
    with pytest.raises(AdapterError, match="allow some of task-00, task-01, task-02"):
        make().route(points((0, 0)), [])


@pytest.mark.parametrize("shape", [(2,), (1, 3), (1, 1, 2)])
def test_embeddings_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"takes \(prompts, 2\)"):
        make().route(np.zeros(shape, np.float32))


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ModelError, match="prompt 1"):
        make().route(points((0, 0), (np.inf, 0)))


def test_a_saved_router_is_the_same(tmp_path: Path) -> None:
    make().save(tmp_path)
    loaded = Router.load(tmp_path)
    assert (loaded.geometry.tasks, loaded.base_fingerprint) == (TASKS, "abc")
    assert (loaded.geometry.mean, loaded.geometry.deviation, loaded.geometry.variance) == (4, 2, 2)
    assert loaded.geometry.centroids.tobytes() == make().geometry.centroids.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["router.json", "router.safetensors"]


@pytest.mark.parametrize("name", ["router.json", "router.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    make().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        Router.load(tmp_path)


@pytest.mark.parametrize("name", ["router.json", "router.safetensors"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    make().save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    with pytest.raises(RunError, match=name) as caught:
        Router.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "earlier fedrouter; start a new run"),
        ({"tasks": []}, "geometry: expected one or more task names"),
        ({"tasks": ["../../etc", "b", "c"]}, "geometry.tasks.0"),
        ({"tasks": ["a", "b"]}, "geometry: expected 2 centroids"),
        ({"tasks": ["a", "b", "b"]}, "geometry: .*all different"),
        ({"mean": -1}, "geometry.mean"),
        ({"deviation": "much"}, "geometry.deviation"),
        ({"extra": 1}, "extra"),
        ({"sha256": "0"}, "do not belong together"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    make().save(tmp_path)
    header = json.loads((tmp_path / "router.json").read_text())
    for part in (header, header["geometry"]):
        part |= {key: value for key, value in change.items() if key in part or key == "extra"}
    (tmp_path / "router.json").write_text(json.dumps(header))
    with pytest.raises(RunError, match=message) as caught:
        Router.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "centroids",
    [np.full((3, 2), np.nan, np.float32), np.zeros((3, 2)), np.zeros(3, np.float32)],
)
def test_centroids_that_cannot_be_right_are_refused(
    tmp_path: Path, centroids: NDArray[np.float32]
) -> None:
    Router(TaskGeometry(TASKS, centroids, 1.0, 1.0, 1.0), "abc").save(tmp_path)
    with pytest.raises(RunError, match="centroids"):
        Router.load(tmp_path)


def test_a_file_without_centroids_is_refused(tmp_path: Path) -> None:
    make().save(tmp_path)
    save_file({"other": np.zeros((3, 2), np.float32)}, tmp_path / "router.safetensors")
    with pytest.raises(RunError, match="restore the file"):
        Router.load(tmp_path)


def test_strangeness_counts_deviations_above_the_mean_of_the_nearest() -> None:
    routes = make().route(points((2, 0), (0, -4)))  # squared distances 4 and 16
    assert routes.ood_score.tolist() == [0, 6]


def test_a_prompt_of_a_known_task_that_is_not_allowed_is_not_strange() -> None:
    routes = make().route(points((4, 0)), allowed=["task-02"])
    assert routes.tasks == ("task-02",)
    assert routes.ood_score.tolist() == [-2]  # it lies on task-01


def test_closeness_spreads_wider_than_the_probability() -> None:
    routes = make().route(points((1, 0)))
    odds = np.exp([-1 / 8, -9 / 8, -10 / 8])  # the mean squared distance is 4, the variance 2
    np.testing.assert_allclose(routes.mixture_weights[0], odds / odds.sum())
    assert routes.confidence[0] > routes.mixture_weights[0, 0]


def answers(
    rows: tuple[float, float], rule: RoutingPolicy, allowed: list[str] | None = None
) -> AdapterMixture:
    router = make()
    [mixture] = mixtures(router.geometry, router.route(points(rows), allowed), rule, allowed)
    return mixture


def test_a_mix_weighs_the_nearest_by_closeness() -> None:
    assert answers((1, 0), RoutingPolicy()) == (("task-00", 1.0),)
    [(first, most), (second, rest)] = answers((1, 0), RoutingPolicy(top_k=2))
    assert (first, second) == ("task-00", "task-01")
    assert (most, rest) == pytest.approx((1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))))
    assert len(answers((1, 0), RoutingPolicy(top_k=9))) == 3


def test_an_adapter_that_hardly_counts_is_left_out_of_a_mix() -> None:
    assert answers((-100, -100), RoutingPolicy(top_k=2, threshold=np.inf)) == (("task-00", 1.0),)


def test_a_prompt_from_outside_is_answered_by_the_fallback() -> None:
    known, strange = (0.0, 3.0), (0.0, -4.0)  # the latter 6 deviations above the mean
    for fallback, expected in (
        ("nearest", (("task-00", 1.0),)),
        ("base", ()),
        ("average", tuple((task, 1 / 3) for task in TASKS)),
    ):
        rule = RoutingPolicy(fallback=fallback, threshold=5.9)
        assert answers(strange, rule) == expected
        assert answers(strange, replace(rule, threshold=6.0)) == (("task-00", 1.0),)
        assert answers(known, rule) == (("task-02", 1.0),)
    [(first, _), (second, _)] = answers(strange, RoutingPolicy(fallback="mix"))
    assert (first, second) == ("task-00", "task-01")
    assert len(answers(strange, RoutingPolicy(3, "mix"))) == 3
    assert answers(known, RoutingPolicy(fallback="mix")) == (("task-02", 1.0),)
    halves = (("task-00", 0.5), ("task-01", 0.5))
    assert answers(strange, RoutingPolicy(1, "average", 1.0), ["task-01", "task-00"]) == halves
