from dataclasses import replace
from pathlib import Path

import numpy as np
from support.clients import KEEP, ROWS, SPEC, client_of, profiled, train

from fedrouter.client.client import Client
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import ClientReply, ClientRequest, Comparison, TrainOrder
from fedrouter.protocol.profile_orders import ClusterPrompts
from fedrouter.types import AdapterWeights, select_matrices


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
