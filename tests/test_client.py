from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_rows

from fedrouter.client import Client
from fedrouter.config import load_config
from fedrouter.datasets import Splits
from fedrouter.engines.inprocess import InProcessEngine
from fedrouter.errors import DataError
from fedrouter.lora import LoraSpec, initial_weights
from fedrouter.messages import ClientTask, ProfileOrder, TrainOrder, Weights
from fedrouter.model import BaseModel
from fedrouter.rows import Row
from fedrouter.transport import Transport, decode, encode

SPEC = LoraSpec(rank=2, alpha=4, dropout=0.0)
ROWS = [row for row in toy_rows(6) if row.task != "count"]
CONFIG = load_config(None, ["training.batch_size=2"])


@pytest.fixture
def client(tiny_base: BaseModel, tmp_path: Path) -> Client:
    return Client(3, Splits(ROWS, []), base=tiny_base, config=CONFIG, folder=tmp_path)


@pytest.fixture(scope="module")
def adapter(tiny_base: BaseModel) -> Weights:
    return initial_weights(tiny_base.model, SPEC, torch.Generator().manual_seed(1))


def test_the_profile_is_the_means_of_the_true_tasks(client: Client, tiny_base: BaseModel) -> None:
    profile = client.profile(ProfileOrder(n_local=None))  # counts the task names: 2
    assert profile.client == 3
    assert profile.counts == (6, 6)
    for number, task in enumerate(("colour", "strip")):
        points = tiny_base.embed([row.instruction for row in ROWS if row.task == task])
        np.testing.assert_allclose(profile.centroids[number], points.mean(axis=0), atol=1e-5)
        spread = np.square(points - points.mean(axis=0)).sum(axis=1).mean()
        assert profile.spreads[number] == pytest.approx(spread, rel=1e-4)
    assert client.labels().tolist() == [0, 1] * 6


def test_rows_without_names_make_two_local_tasks(tiny_base: BaseModel, tmp_path: Path) -> None:
    rows = [Row(row.instruction, row.response) for row in ROWS]
    client = Client(0, Splits(rows, []), base=tiny_base, config=CONFIG, folder=tmp_path)
    assert len(client.profile(ProfileOrder(n_local=None)).counts) == 2
    assert len(client.profile(ProfileOrder(n_local=3)).counts) == 3


def test_a_job_trains_on_its_local_task_only(client: Client, adapter: Weights) -> None:
    client.profile(ProfileOrder(n_local=2))
    orders = (TrainOrder("a", 1, 4), TrainOrder("a", None, 8))
    task = ClientTask(3, round=1, train=orders, adapters={"a": adapter}, lr=0.1)
    one, everything = client.prepare(task)
    strips = [row for row in ROWS if row.task == "strip"]
    assert one.examples == client._base.prompts.examples(strips)
    assert len(everything.examples) == 12
    assert (one.steps, everything.steps, one.lr, one.batch_size) == (4, 8, 0.1, 2)
    assert one.seed != everything.seed


def test_rows_that_changed_since_the_profile_are_refused(
    client: Client, tiny_base: BaseModel, tmp_path: Path
) -> None:
    client.profile(ProfileOrder(n_local=2))
    changed = Client(3, Splits(ROWS[:-1], []), base=tiny_base, config=CONFIG, folder=tmp_path)
    with pytest.raises(DataError, match="profiled with 12 samples and now has 11"):
        changed.labels()
    stranger = Client(4, Splits(ROWS, []), base=tiny_base, config=CONFIG, folder=tmp_path)
    with pytest.raises(DataError, match="no readable profile of client 4"):
        stranger.labels()


def engine(base: BaseModel, client: Client, transport: Transport) -> InProcessEngine:
    return InProcessEngine(base, SPEC, {3: client}, transport=transport, fuse=4)


@pytest.mark.parametrize("transport", ["fp32", "fp16", "int8"])
def test_the_engine_rounds_as_the_transport_does(
    client: Client, tiny_base: BaseModel, adapter: Weights, transport: Transport
) -> None:
    profiled = engine(tiny_base, client, transport)
    [reply] = profiled.run([ClientTask(3, round=0, profile=ProfileOrder(2))])
    assert reply.profile is not None
    assert profiled.traffic.up == reply.profile.centroids.nbytes
    order = TrainOrder("a", 0, steps=1)
    task = ClientTask(3, round=1, train=(order,), adapters={"a": adapter}, lr=1e-9)
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
    tiny_base: BaseModel, adapter: Weights, tmp_path: Path
) -> None:
    clients = {
        id: Client(id, Splits(ROWS, []), base=tiny_base, config=CONFIG, folder=tmp_path)
        for id in range(3)
    }
    run = InProcessEngine(tiny_base, SPEC, clients, transport="fp32", fuse=2)
    list(run.run([ClientTask(id, 0, profile=ProfileOrder(2)) for id in clients]))
    tasks = [
        ClientTask(
            id,
            round=1,
            train=(TrainOrder("a", 0, 1), TrainOrder("a", 1, 1)),
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
