from typing import get_args

import numpy as np
import pytest

from fedrouter.config import Config, load_config
from fedrouter.messages import ClientReply, TaskProfile, TrainOrder, Update, Weights
from fedrouter.strategies import STRATEGIES, ServerState, make_strategy


def weights(value: float) -> Weights:
    return {"w": np.full((1, 2), value, np.float32)}


# Client 0 holds tasks at 0 and 10; client 1 at 10 and 20. Three global tasks: 0, 10 and 20.
PROFILES = [
    TaskProfile(0, np.array([[0.0, 0], [10, 0]], np.float32), (30, 10), (1.0, 1.0)),
    TaskProfile(1, np.array([[10.0, 0], [20, 0]], np.float32), (5, 15), (2.0, 2.0)),
]


def strategy(name: str, *sets: str):
    return make_strategy(load_config(None, [f"strategy={name}", "clustering.n_global=3", *sets]))


def state_of(name: str) -> ServerState:
    return strategy(name).init(PROFILES, weights(0), "base")


def reply(client: int, *updates: tuple[float, int]) -> ClientReply:
    return ClientReply(
        client,
        round=1,
        updates=tuple(
            Update(slot, weights(value), samples, loss=1.0, tokens=10)
            for slot, (value, samples) in enumerate(updates)
        ),
    )


def test_fedrouter_joins_the_local_tasks_of_different_clients() -> None:
    state = state_of("fedrouter")
    assert state.router.tasks == ("task-00", "task-01", "task-02")
    assert state.router.centroids.tolist() == [[0, 0], [10, 0], [20, 0]]
    assert state.assignment == {0: ("task-00", "task-01"), 1: ("task-01", "task-02")}
    assert state.counts == {0: (30, 10), 1: (5, 15)}
    assert state.router.spread == pytest.approx((40 * 1 + 20 * 2) / 60)


def test_fedrouter_trains_every_local_task_from_its_global_task() -> None:
    task = strategy("fedrouter", "training.steps=7").plan(state_of("fedrouter"), 1, [1])[0]
    assert task.train == (TrainOrder("task-01", 0, 7), TrainOrder("task-02", 1, 7))
    assert sorted(task.adapters) == ["task-01", "task-02"]


def test_fedrouter_weights_by_the_samples_of_the_local_task() -> None:
    replies = [reply(0, (1.0, 30), (2.0, 10)), reply(1, (6.0, 30), (5.0, 15))]
    state = strategy("fedrouter").aggregate(state_of("fedrouter"), 1, replies)
    assert state.round == 1
    assert state.adapters["task-00"]["w"].tolist() == [[1, 1]]
    assert state.adapters["task-01"]["w"].tolist() == [[5, 5]]  # (10 * 2 + 30 * 6) / 40
    assert state.adapters["task-02"]["w"].tolist() == [[5, 5]]


def test_a_task_that_nobody_returned_keeps_its_adapter() -> None:
    before = state_of("fedrouter")
    after = strategy("fedrouter").aggregate(before, 1, [reply(0, (1.0, 30), (2.0, 10))])
    assert after.adapters["task-02"] is before.adapters["task-02"]
    assert strategy("fedrouter").aggregate(before, 1, []).adapters == before.adapters


def test_fedavg_is_one_adapter_trained_on_everything_for_the_same_number_of_steps() -> None:
    state = state_of("fedavg")
    assert state.router.tasks == ("task-00",)
    task = strategy("fedavg", "training.steps=7").plan(state, 1, [0])[0]
    assert task.train == (TrainOrder("task-00", None, 14),)
    after = strategy("fedavg").aggregate(state, 1, [reply(0, (1.0, 40)), reply(1, (4.0, 20))])
    assert after.adapters["task-00"]["w"].tolist() == [[2, 2]]  # (40 * 1 + 20 * 4) / 60


def test_the_rate_falls_as_a_cosine_from_lr_to_lr_min() -> None:
    method = strategy("fedrouter", "federation.rounds=3", "training.lr=0.5", "training.lr_min=0.1")
    rates = [method.plan(state_of("fedrouter"), round, [0])[0].lr for round in (1, 2, 3)]
    assert rates == pytest.approx([0.5, 0.3, 0.1])


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_state_survives_packing(name: str) -> None:
    state = state_of(name)
    unpacked = ServerState.unpack(state.round, *state.pack())
    assert unpacked.assignment == state.assignment
    assert unpacked.counts == state.counts
    assert unpacked.router.tasks == state.router.tasks
    assert unpacked.router.spread == state.router.spread
    np.testing.assert_array_equal(unpacked.router.centroids, state.router.centroids)
    for task, adapter in state.adapters.items():
        np.testing.assert_array_equal(unpacked.adapters[task]["w"], adapter["w"])


def test_the_configuration_knows_the_same_names() -> None:
    assert set(get_args(Config.model_fields["strategy"].annotation)) == set(STRATEGIES)
