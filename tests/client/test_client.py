from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.toys import toy_rows

from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.client.adapter_choice import choose
from fedrouter.client.client import Client
from fedrouter.config import load_config
from fedrouter.data.client_data import ClientData
from fedrouter.data.rows import Row
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.errors import DataError, MessageError
from fedrouter.evaluation.metrics import pooled
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.compression import TransportDtype, decode, encode
from fedrouter.protocol.messages import (
    AssignToNearest,
    ClientReply,
    ClientRequest,
    ClusterPrompts,
    Comparison,
    DetectNewTasks,
    EvaluateOrder,
    EvaluationReport,
    GroupByLabel,
    InstanceMixture,
    LowestLoss,
    ProfileOrder,
    ReassignByLoss,
    RouteByTask,
    Serving,
    SingleAdapter,
    TrainOrder,
    TrueTask,
)
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.types import AdapterWeights, select_matrices

SPEC = LoraSpec(rank=2, alpha=4, dropout=0.0)
ROWS = [row for row in toy_rows(6) if row.task != "count"]


def client_of(
    base: BaseModel, folder: Path, rows: Sequence[Row] = ROWS, id: int = 3, *sets: str
) -> Client:
    return Client(
        id,
        ClientData(rows, rows[:2], rows[:4]),
        shared_model=SharedModel(base),
        spec=SPEC,
        config=load_config(None, ["training.batch_size=2", "evaluation.max_new_tokens=2", *sets]),
        folder=folder,
    )


def profiled(client: Client, order: ProfileOrder) -> TaskProfile:
    """What the client answers to an order to profile its data."""
    profile = client.prepare(ClientRequest(client.id, 0, order)).reply.profile
    assert profile is not None
    return profile


@pytest.fixture
def client(tiny_base: BaseModel, tmp_path: Path) -> Client:
    return client_of(tiny_base, tmp_path)


@pytest.fixture(scope="module")
def adapter(tiny_base: BaseModel) -> AdapterWeights:
    return initial_weights(tiny_base.model, SPEC, torch.Generator().manual_seed(1))


def test_the_profile_is_the_means_of_the_true_tasks(client: Client, tiny_base: BaseModel) -> None:
    profile = profiled(client, ClusterPrompts())  # counts the task names: 2
    assert profile.client == 3
    assert profile.counts == (6, 6)
    for number, task in enumerate(("colour", "strip")):
        points = tiny_base.embed([row.instruction for row in ROWS if row.task == task])
        np.testing.assert_allclose(profile.centroids[number], points.mean(axis=0), atol=1e-5)
        spread = np.square(points - points.mean(axis=0)).sum(axis=1).mean()
        assert profile.second_moments[number] == pytest.approx(spread, rel=1e-4)
    assert client.store.labels().tolist() == [0, 1] * 6


def test_rows_without_names_make_two_local_tasks(tiny_base: BaseModel, tmp_path: Path) -> None:
    rows = [Row(row.instruction, row.response) for row in ROWS]
    assert len(profiled(client_of(tiny_base, tmp_path, rows), ClusterPrompts()).counts) == 2
    three = client_of(tiny_base, tmp_path, rows, 0, "clustering.n_local=3")
    assert len(profiled(three, ClusterPrompts()).counts) == 3
    with pytest.raises(DataError, match="do not name their task"):
        profiled(three, GroupByLabel())


def test_the_oracles_profile_groups_by_name(client: Client) -> None:
    profile = profiled(client, GroupByLabel())
    assert profile.names == ("colour", "strip")
    assert profile.counts == (6, 6)
    assert client.store.labels().tolist() == [0, 1] * 6


def test_a_job_trains_on_its_local_task_only(client: Client, adapter: AdapterWeights) -> None:
    profiled(client, ClusterPrompts())
    orders = (TrainOrder(("a",), 4, local_task=1), TrainOrder(("a",), 4))
    task = ClientRequest(3, round=1, train=orders, adapters={"a": adapter}, lr=0.1)
    one, global_test = client.prepare(task).jobs
    strips = [row for row in ROWS if row.task == "strip"]
    assert one.examples == client._shared_model.base.prompts.examples(strips)
    assert len(global_test.examples) == 12
    assert (one.steps, global_test.steps, one.lr, one.batch_size) == (4, 8, 0.1, 2)
    assert one.seed != global_test.seed


def test_a_client_whose_rows_changed_says_so_and_nothing_else(
    client: Client, tiny_base: BaseModel, tmp_path: Path, adapter: AdapterWeights
) -> None:
    profiled(client, ClusterPrompts())
    others = [replace(row, response=f"{row.response}!") for row in ROWS]
    changed = client_of(tiny_base, tmp_path, others)
    orders = (TrainOrder(("a",), 4, local_task=1),)
    for task in (
        ClientRequest(3, 1, train=orders, adapters={"a": adapter}),
        ClientRequest(3, 1, compare=(Comparison(0, ("a",)),), adapters={"a": adapter}),
    ):
        work = changed.prepare(task)
        assert work.jobs == ()
        assert changed.finish(work, []) == ClientReply(3, 1, changed=True)
    # What is not about local tasks it does as ever, and a new profile makes all well.
    assert changed.prepare(ClientRequest(3, 1, train=(TrainOrder((), 4),))).jobs
    profiled(changed, ClusterPrompts())
    assert (
        len(changed.prepare(ClientRequest(3, 1, train=orders, adapters={"a": adapter})).jobs) == 1
    )


def found_client(tiny_base: BaseModel, folder: Path) -> Client:
    """A client that finds its number of tasks, with 24 rows of each of the two tasks."""
    rows = [row for row in toy_rows(24) if row.task in {"colour", "strip"}]
    return client_of(tiny_base, folder, rows, 3, "clustering.n_local=auto")


def test_a_late_client_names_the_task_that_it_knows_and_the_one_that_is_new(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    client = found_client(tiny_base, tmp_path)
    points = tiny_base.embed([row.instruction for row in client.data.train])
    names = np.array([row.task for row in client.data.train])
    colour, strip = (points[names == name].mean(axis=0) for name in ("colour", "strip"))
    mean = float(np.square(points[names == "colour"] - colour).sum(axis=1).mean())
    geometry = TaskGeometry(
        ("task-00", "task-01"), np.stack([colour + 100, colour]), mean, mean / 2, 1.0
    )
    profile = profiled(client, DetectNewTasks(geometry))
    assert set(profile.tasks) == {1, -1}
    known = profile.counts[profile.tasks.index(1)]
    assert 20 <= known <= 24
    assert sum(profile.counts) == 48
    assert client.store.labels().max() == len(profile.tasks) - 1
    both = replace(geometry, centroids=np.stack([strip, colour]), mean=10 * mean)
    assert profiled(client, DetectNewTasks(both)).tasks == (0, 1)


@pytest.mark.parametrize(("steps", "goes"), [(0, 0), (25, 1)])
def test_a_sample_leaves_its_nearest_task_for_an_adapter_that_serves_it_clearly_better(
    tiny_base: BaseModel, tmp_path: Path, adapter: AdapterWeights, steps: int, goes: int
) -> None:
    client = found_client(tiny_base, tmp_path)
    points = tiny_base.embed([row.instruction for row in client.data.train])
    middle = points.mean(axis=0)
    profiled(client, ClusterPrompts())
    on = client.store.labels() == 0

    def trained(steps: int) -> AdapterWeights:
        order = TrainOrder(("a",), steps=steps, local_task=0)
        return train(client, tiny_base, 1, order, a=adapter)[0].weights if steps else adapter

    task = ClientRequest(
        3,
        1,
        ReassignByLoss(
            TaskGeometry(("a", "b", "c"), np.stack([middle + 9, middle, middle]), 1.0, 1.0, 1.0),
            adapters=("a", "b"),
        ),
        adapters={"a": trained(30), "b": trained(steps)},
    )
    before = client.store.labels()
    profile = client.prepare(task).reply.profile
    assert profile is not None
    assert set(profile.tasks) <= {0, 1}  # the adapter of "c" was not offered
    assert profile.counts[profile.tasks.index(goes)] > 0.9 * on.sum()
    np.testing.assert_array_equal(client.store.labels(), before)


@pytest.mark.parametrize(("rows", "groups"), [(12, 3), (64, 4), (200, 8)])
def test_local_tasks_to_begin_with_where_their_number_is_to_be_found(
    tiny_base: BaseModel, tmp_path: Path, rows: int, groups: int
) -> None:
    held = toy_rows(rows)[:rows]
    client = client_of(tiny_base, tmp_path, held, 3, "clustering.n_local=auto")
    assert len(profiled(client, ClusterPrompts()).counts) == groups


@pytest.mark.parametrize(("least", "held"), [(1, (0, 1)), (4, (0,)), (99, (0,))])
def test_a_client_holds_the_tasks_of_which_it_has_enough_samples(
    tiny_base: BaseModel, tmp_path: Path, least: int, held: tuple[int, ...]
) -> None:
    rows = [row for row in toy_rows(24) if row.task == "colour"]
    rows += [row for row in toy_rows(3) if row.task == "strip"]  # not an eighth of 27
    client = client_of(tiny_base, tmp_path, rows, 3, "clustering.n_local=auto")
    points = tiny_base.embed([row.instruction for row in rows])
    centroids = np.stack([points[:24].mean(axis=0), points[24:].mean(axis=0)])
    geometry = TaskGeometry(("a", "b"), centroids, 1.0, 1.0, 1.0)
    profile = profiled(client, AssignToNearest(geometry, least))
    assert profile.tasks == held
    assert sum(profile.counts) == 27


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


def test_rows_that_changed_since_the_profile_are_refused(
    client: Client, tiny_base: BaseModel, tmp_path: Path
) -> None:
    profiled(client, ClusterPrompts())
    changed = client_of(tiny_base, tmp_path, ROWS[:-1])
    with pytest.raises(DataError, match="profiled with 12 samples and now has 11"):
        changed.store.labels()
    stranger = client_of(tiny_base, tmp_path, id=4)
    with pytest.raises(DataError, match="no readable profile of client 4"):
        stranger.store.labels()


def engine(base: BaseModel, client: Client, transport: TransportDtype) -> InProcessEngine:
    return InProcessEngine(base, SPEC, {3: client}, transport=transport, fuse=4)


@pytest.mark.parametrize("transport", ["fp32", "fp16", "int8"])
def test_the_engine_rounds_as_the_transport_does(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights, transport: TransportDtype
) -> None:
    profiled = engine(tiny_base, client, transport)
    [reply] = profiled.run([ClientRequest(3, round=0, profile=ClusterPrompts())])
    assert reply.profile is not None
    assert profiled.traffic.up == reply.profile.centroids.nbytes
    order = TrainOrder(("a",), 1, local_task=0)
    task = ClientRequest(3, round=1, train=(order,), adapters={"a": adapter}, lr=1e-9)
    trained = engine(tiny_base, client, transport)
    [reply] = trained.run([task])
    update = reply.updates[0]
    assert (update.slot, update.samples) == (0, 6)
    size = encode(adapter, transport).nbytes
    assert (trained.traffic.up, trained.traffic.down) == (size, size)
    # At a rate this low the adapter comes back as it arrived: rounded.
    arrived = decode(encode(decode(encode(adapter, transport)), transport))
    for name, array in update.weights.items():
        np.testing.assert_allclose(array, arrived[name], atol=1e-3)


def test_replies_come_in_the_order_of_the_tasks(
    tiny_base: BaseModel, adapter: AdapterWeights, tmp_path: Path
) -> None:
    clients = {id: client_of(tiny_base, tmp_path, id=id) for id in range(3)}
    run = InProcessEngine(tiny_base, SPEC, clients, transport="fp32", fuse=2)
    list(run.run([ClientRequest(id, 0, profile=ClusterPrompts()) for id in clients]))
    tasks = [
        ClientRequest(
            id,
            round=1,
            train=(TrainOrder(("a",), 1, local_task=0), TrainOrder(("a",), 1, local_task=1)),
            adapters={"a": adapter},
            lr=0.01,
        )
        for id in (2, 0, 1)
    ]
    replies = list(run.run(tasks))
    assert [reply.client for reply in replies] == [2, 0, 1]
    [alone] = run.run([tasks[1]])
    for one, other in zip(replies[1].updates, alone.updates, strict=True):
        for name, array in one.weights.items():
            np.testing.assert_allclose(array, other.weights[name], atol=1e-4)


KEEP = "personal"


def train(
    client: Client, base: BaseModel, round: int, order: TrainOrder, **adapters: AdapterWeights
):
    run = engine(base, client, "fp32")
    [reply] = run.run([ClientRequest(3, round, train=(order,), adapters=adapters, lr=0.1)])
    return reply.updates[0], run.traffic


def test_what_is_kept_stays_with_the_client(client: Client, tiny_base: BaseModel) -> None:
    order = TrainOrder((), steps=1, keep=KEEP, send="")
    first, traffic = train(client, tiny_base, 1, order)
    assert (first.adapter, first.weights) == (None, {})
    assert (traffic.up, traffic.down) == (0, 0)
    task = ClientRequest(3, round=2, train=(order,), lr=0.1)
    [job] = client.prepare(task).jobs
    [initial] = client.prepare(replace(task, round=1)).jobs  # round 1 done again starts anew
    drawn = client._shared_model.initial(SPEC, 0)
    for name, array in initial.weights.items():
        np.testing.assert_array_equal(array, drawn[name])
    assert any((array != drawn[name]).any() for name, array in job.weights.items())


def test_a_start_is_overlaid_tensor_by_tensor(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    order = TrainOrder(("a",), steps=1, keep=KEEP, keep_parts="B", send="A")
    update, _ = train(client, tiny_base, 1, order, a=select_matrices(adapter, "A"))
    assert update.adapter == "a"
    assert update.weights.keys() == select_matrices(adapter, "A").keys()
    task = ClientRequest(
        3, 2, train=(order,), adapters={"a": select_matrices(adapter, "A")}, lr=0.1
    )
    [job] = client.prepare(task).jobs
    for name, array in select_matrices(adapter, "A").items():
        np.testing.assert_array_equal(job.weights[name], array)  # received
    assert all(array.any() for array in select_matrices(job.weights, "B").values())  # kept


def test_an_order_with_several_adapters_takes_the_one_of_lowest_loss(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    trained, _ = train(client, tiny_base, 1, TrainOrder(("a",), steps=5), a=adapter)
    order = TrainOrder(("worse", "better"), steps=1)
    update, _ = train(client, tiny_base, 2, order, worse=adapter, better=trained.weights)
    assert update.adapter == "better"


def test_steps_count_for_each_local_task(client: Client, adapter: AdapterWeights) -> None:
    task = ClientRequest(3, 1, train=(TrainOrder(("a",), 3),), adapters={"a": adapter}, lr=0.1)
    [job] = client.prepare(task).jobs
    assert (client.context(task).n_local, job.steps) == (2, 6)


def serve(
    client: Client, rule: Serving, round: int = 9, **adapters: AdapterWeights
) -> EvaluationReport:
    order = EvaluateOrder(rule, ("local", "global", "base"))
    work = client.prepare(ClientRequest(3, round, evaluate=order, adapters=adapters))
    evaluation = client.finish(work, []).evaluation
    assert evaluation is not None
    return evaluation


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
    assert (evaluation.routed, evaluation.found) == ({}, ())


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
    assert evaluation.found == ({"colour": 6}, {"strip": 6})
    # Locally both rows go to the trained adapter; globally the colours to the untrained one.
    assert evaluation.scores["local"]["colour"].scores["loss"] < loss(evaluation, "base") - 0.1
    untrained = evaluation.scores["global"]["colour"].scores["loss"]
    assert untrained == pytest.approx(evaluation.scores["base"]["colour"].scores["loss"], rel=1e-5)


def test_the_oracle_goes_by_name(client: Client, adapter: AdapterWeights) -> None:
    evaluation = serve(client, TrueTask({"colour": "a", "strip": "b"}), a=adapter, b=adapter)
    assert evaluation.routed == {"a": {"colour": 2}, "b": {"strip": 2}}
    with pytest.raises(MessageError, match="'strip'"):
        serve(client, TrueTask({"colour": "a"}), a=adapter)


def test_the_lowest_loss_answers(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    trained, _ = train(client, tiny_base, 1, TrainOrder(("a",), steps=20), a=adapter)
    evaluation = serve(client, LowestLoss(("a", "b")), a=adapter, b=trained.weights)
    alone = serve(client, SingleAdapter("b"), b=trained.weights)
    assert evaluation.scores == alone.scores


def test_the_kept_adapters_weight_is_the_mean_cosine_to_local_samples(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    train(client, tiny_base, 1, TrainOrder((), steps=1, keep=KEEP, send=""))
    context = client.context(ClientRequest(3, 2, adapters={"a": adapter}))
    rule = InstanceMixture("a", KEEP, scale=0.5, samples=12)
    chosen = choose(rule, context, ROWS[:1], "local")
    points = tiny_base.embed([row.instruction for row in ROWS], pooling="last")
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    expected = 0.5 * float(np.mean(unit @ unit[0]))
    [[(kept, weight), (received, rest)]] = chosen.mixtures
    assert (kept, received) == ("kept", "received")
    assert (weight, rest) == pytest.approx((expected, 1 - expected), abs=1e-5)


def test_samples_go_to_the_nearest_of_the_most_frequent_tasks(
    client: Client, tiny_base: BaseModel
) -> None:
    points = tiny_base.embed([row.instruction for row in ROWS])
    colour, strip = (points[k::2].mean(axis=0) for k in (0, 1))
    # Task 2 is nearest to a single sample; the client holds two tasks, so that it gives it up.
    centroids = np.stack([strip, np.zeros_like(strip) + 1e3, points[0], colour])
    geometry = TaskGeometry(tuple("abcd"), centroids, 1.0, 1.0, 1.0)
    profile = profiled(client, AssignToNearest(geometry, scatter=True))
    assert profile.tasks == (0, 3)
    assert profile.counts == (6, 6)
    assert client.store.labels().tolist() == [1, 0] * 6
    np.testing.assert_allclose(profile.centroids, [strip, colour], atol=1e-5)
    assert profile.scatter is not None
    diagonal = np.triu_indices(points.shape[1])
    spread = profile.scatter.products[diagonal[0] == diagonal[1]].sum() / len(ROWS)
    assert spread == pytest.approx(np.mean(profile.second_moments), rel=1e-4)
