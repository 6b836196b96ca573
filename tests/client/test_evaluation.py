from pathlib import Path

import pytest
from support.clients import KEEP, ROWS, SPEC, profiled, serve, train
from support.configs import resolved

from fedrouter.client.client import Client
from fedrouter.data.client_data import ClientData
from fedrouter.errors import DataError, MessageError
from fedrouter.evaluation.metrics import pooled
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import ClientRequest, Comparison, EvaluationReport, TrainOrder
from fedrouter.protocol.profile_orders import ClusterPrompts, GroupByLabel
from fedrouter.protocol.serving_rules import LowestLoss, RouteByTask, SingleAdapter, TrueTask
from fedrouter.routing.types import TaskGeometry
from fedrouter.types import AdapterWeights


def test_a_comparison_gives_mean_losses_on_samples_of_the_local_task(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    profiled(client, ClusterPrompts())
    trained, _ = train(client, tiny_base, 1, TrainOrder(("a",), steps=20, local_task=0), a=adapter)
    task = ClientRequest(
        3,
        1,
        compare=(Comparison(0, ("a", "b")),),
        adapters={"a": trained.weights, "b": adapter},
    )
    [told] = client.prepare(task).reply.losses
    assert (told.local_task, told.samples) == (0, 6)
    assert told.adapters["b"] == pytest.approx(told.base, rel=1e-5)  # as good as untrained
    assert told.adapters["a"] < told.base - 0.1


def loss(evaluation: EvaluationReport, scope: str) -> float:
    return pooled(evaluation.scores[scope].values())["loss"]


def test_an_untrained_adapter_scores_as_the_base_model(
    client: Client, adapter: AdapterWeights
) -> None:
    evaluation = serve(client, SingleAdapter("a"), a=adapter)
    assert {label: one.rows for label, one in evaluation.scores["local"].items()} == {
        "colour": 1,
        "strip": 1,
    }
    assert sum(one.rows for one in evaluation.scores["global"].values()) == 4
    assert loss(evaluation, "global") == pytest.approx(loss(evaluation, "base"), rel=1e-5)
    assert (evaluation.routed, evaluation.local_tasks) == ({}, ())


def test_names_of_tasks_stay_with_a_client_that_does_not_report_them(
    tiny_base: BaseModel, adapter: AdapterWeights, tmp_path: Path
) -> None:
    client = Client(
        3,
        ClientData(ROWS, ROWS[:2], ROWS[:4]),
        shared_model=SharedModel(tiny_base),
        spec=SPEC,
        config=resolved("evaluation.max_new_tokens=2"),
        folder=tmp_path,
        report_task_names=False,
    )
    profile = profiled(client, ClusterPrompts())
    names = tuple(f"t{i}" for i in range(len(profile.counts)))
    geometry = TaskGeometry(names, profile.centroids, mean=1.0, deviation=1.0, variance=1.0)
    rule = RouteByTask(geometry, own=names)
    evaluation = serve(client, rule, **dict.fromkeys(names, adapter))
    labels = {label for scores in evaluation.scores.values() for label in scores}
    labels |= {label for one in evaluation.routed.values() for label in one}
    labels |= {label for one in evaluation.local_tasks for label in one}
    assert labels == {""}
    with pytest.raises(DataError, match="does not report names of tasks"):
        profiled(client, GroupByLabel())


def test_a_kept_adapter_answers(client: Client, tiny_base: BaseModel) -> None:
    train(client, tiny_base, 1, TrainOrder((), steps=20, keep=KEEP, send=""))
    evaluation = serve(client, SingleAdapter(None, KEEP))
    assert loss(evaluation, "local") < loss(evaluation, "base") - 0.1


def test_a_router_offers_only_the_own_tasks_locally(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    profile = profiled(client, ClusterPrompts())
    trained, _ = train(client, tiny_base, 1, TrainOrder(("a",), steps=20), a=adapter)
    rule = RouteByTask(
        TaskGeometry(("colour", "strip"), profile.centroids, 1.0, 1.0, 1.0), own=("strip",)
    )
    evaluation = serve(client, rule, colour=adapter, strip=trained.weights)
    assert evaluation.routed == {"colour": {"colour": 2}, "strip": {"strip": 2}}
    assert evaluation.local_tasks == ({"colour": 6}, {"strip": 6})
    # Locally both rows go to the trained adapter; globally the colours to the untrained one.
    assert evaluation.scores["local"]["colour"].scores["loss"] < loss(evaluation, "base") - 0.1
    untrained = evaluation.scores["global"]["colour"].scores["loss"]
    assert untrained == pytest.approx(evaluation.scores["base"]["colour"].scores["loss"], rel=1e-5)


def test_the_oracle_goes_by_name(client: Client, adapter: AdapterWeights) -> None:
    evaluation = serve(client, TrueTask({"colour": "a", "strip": "b"}), a=adapter, b=adapter)
    assert evaluation.routed == {"a": {"colour": 2}, "b": {"strip": 2}}
    with pytest.raises(MessageError, match="no adapter for the true task of a row"):
        serve(client, TrueTask({"colour": "a"}), a=adapter)


def test_the_lowest_loss_answers(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    trained, _ = train(client, tiny_base, 1, TrainOrder(("a",), steps=20), a=adapter)
    evaluation = serve(client, LowestLoss(("a", "b")), a=adapter, b=trained.weights)
    alone = serve(client, SingleAdapter("b"), b=trained.weights)
    assert evaluation.scores == alone.scores
