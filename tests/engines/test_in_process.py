from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.clients import ROWS, SPEC, client_of, engine

from fedrouter.client.client import Client
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.model.base_model import BaseModel
from fedrouter.progress import Progress
from fedrouter.protocol.codec import pack_reply, pack_request, unpack_reply, unpack_request
from fedrouter.protocol.compression import TransportDtype, WeightsEncoder, decode, encode
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure, TrainOrder
from fedrouter.protocol.movement import difference, restored, with_weights
from fedrouter.protocol.profile_orders import ClusterPrompts
from fedrouter.training.trainer import train
from fedrouter.types import AdapterWeights


@pytest.mark.parametrize("transport", ["float32", "float16", "int8", "int4"])
def test_the_engine_rounds_as_the_transport_does(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights, transport: TransportDtype
) -> None:
    profiled = engine(tiny_base, client, transport)
    [reply] = profiled.run([ClientRequest(3, round=0, profile=ClusterPrompts())])
    assert reply.profile is not None
    assert profiled.traffic.up == reply.profile.centroids.nbytes
    order = TrainOrder(("a",), 1, local_task=0)
    task = ClientRequest(3, round=1, train=(order,), adapters={"a": adapter}, lr=0.1)
    trained = engine(tiny_base, client, transport)
    [reply] = trained.run([task])
    update = reply.updates[0]
    assert (update.slot, update.samples) == (0, 6)
    size = encode(adapter, transport).nbytes
    assert (trained.traffic.up, trained.traffic.down) == (size, size)
    # The client trains what arrives, and its rounded movement is added to what was sent.
    arrived = decode(encode(adapter, transport))
    [job] = client.prepare(replace(task, adapters={"a": arrived})).jobs
    [result] = train(tiny_base, SPEC, [job], fuse=1)
    rounded = decode(encode(difference(result.weights, arrived), transport))
    for name, array in restored(rounded, adapter).items():
        np.testing.assert_array_equal(update.weights[name], array)


@pytest.mark.parametrize("transport", ["float32", "float16", "int8", "int4"])
def test_replies_are_bit_for_bit_those_that_travelled(
    tiny_base: BaseModel, adapter: AdapterWeights, tmp_path: Path, transport: TransportDtype
) -> None:
    """Two rounds of messages as bytes, as on Flower, beside the engine, with error feedback."""
    sets = f"federation.transport={transport}", "federation.error_feedback=true"
    one, other = (client_of(tiny_base, tmp_path / name, ROWS, 3, *sets) for name in "ab")
    own = InProcessEngine(tiny_base, SPEC, {3: one}, transport=transport, fuse=1, initial=adapter)
    shared = {name: array + np.float32(0.01) for name, array in adapter.items()}
    for round in (1, 2):
        order = TrainOrder(("a",), 2, keep="personal", keep_parts="B")
        request = ClientRequest(3, round, train=(order,), adapters={"a": shared}, lr=0.01)
        [expected] = own.run([request])
        arrived = unpack_request(
            *pack_request(request, transport, WeightsEncoder(adapter)), adapter
        )
        work = other.prepare(arrived)
        results = list(train(tiny_base, SPEC, work.jobs, fuse=1))
        reply = unpack_reply(*pack_reply(other.finish(work, results), transport))
        found = with_weights(reply, request.adapters)
        for name, array in expected.updates[0].weights.items():
            assert array.tobytes() == found.updates[0].weights[name].tobytes()
        shared = expected.updates[0].weights
    errors = [client.store.kept("errors/a.all", 3) for client in (one, other)]
    assert bool(errors[0]) == (transport == "int4")
    for name, array in errors[0].items():
        assert array.tobytes() == errors[1][name].tobytes()


def test_the_initial_adapter_does_not_travel(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    def requests(weights: AdapterWeights) -> list[ClientRequest]:
        order = TrainOrder(("a",), 1)
        return [ClientRequest(3, 1, train=(order,), adapters={"a": weights}, lr=0.1)]

    plain = engine(tiny_base, client, "int4")
    saving = InProcessEngine(
        tiny_base, SPEC, {3: client}, transport="int4", fuse=4, initial=adapter
    )
    list(saving.run(requests(adapter)))
    assert saving.traffic.down == 0
    moved = {name: array + np.float32(1e-3) for name, array in adapter.items()}
    [exact] = saving.run(requests(moved))
    [rounded] = plain.run(requests(moved))
    assert saving.traffic.down == plain.traffic.down > 0
    order = {name: array.shape for name, array in exact.updates[0].weights.items()}
    assert order == {name: array.shape for name, array in rounded.updates[0].weights.items()}


def test_replies_come_in_the_order_of_the_tasks(
    tiny_base: BaseModel, adapter: AdapterWeights, tmp_path: Path
) -> None:
    clients = {id: client_of(tiny_base, tmp_path, id=id) for id in range(3)}
    run = InProcessEngine(tiny_base, SPEC, clients, transport="float32", fuse=2)
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


def test_progress_within_a_round(
    tiny_base: BaseModel, adapter: AdapterWeights, tmp_path: Path
) -> None:
    moves: list[float] = []
    losses: list[float] = []

    class Recorder(Progress):
        def advance(self, steps: float) -> None:
            moves.append(steps)

        def loss(self, value: float) -> None:
            losses.append(value)

    clients = {id: client_of(tiny_base, tmp_path, id=id) for id in range(3)}
    run = InProcessEngine(
        tiny_base, SPEC, clients, transport="float32", fuse=2, progress=Recorder()
    )
    list(run.run([ClientRequest(id, 0, profile=ClusterPrompts()) for id in clients]))
    assert moves == [1, 1, 1]  # nothing is trained
    moves.clear()
    order = TrainOrder(("a",), 4, local_task=0)
    tasks = [
        ClientRequest(id, round=1, train=(order,), adapters={"a": adapter}, lr=1e-6)
        for id in clients
    ]
    replies = [reply for reply in run.run(tasks) if isinstance(reply, ClientReply)]
    assert moves == [0.5] * 4 + [0.25] * 4  # two clients at a time, and the third
    trained = [reply.updates[0].loss for reply in replies]
    assert losses[3] == pytest.approx((trained[0] + trained[1]) / 2)
    assert losses[7] == pytest.approx(trained[2])


@pytest.mark.parametrize("transport", ["float32", "float16", "int8", "int4"])
def test_an_update_that_diverged_costs_its_client_alone(
    tiny_base: BaseModel, adapter: AdapterWeights, tmp_path: Path, transport: TransportDtype
) -> None:
    """As on Flower, where the client cannot encode it."""
    clients = {id: client_of(tiny_base, tmp_path, id=id) for id in range(2)}
    run = InProcessEngine(tiny_base, SPEC, clients, transport=transport, fuse=2)
    order = (TrainOrder(("a",), 2),)
    good = ClientRequest(0, round=1, train=order, adapters={"a": adapter}, lr=0.01)
    failure, reply = run.run([replace(good, client=1, lr=1e30), good])
    assert isinstance(failure, Failure)
    assert (failure.client, failure.round) == (1, 1)
    assert "lower training.lr" in failure.reason
    assert isinstance(reply, ClientReply)
    assert len(reply.updates) == 1
