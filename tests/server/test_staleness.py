"""Late and normalized updates, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configs import resolved

from fedrouter.protocol.messages import ClientReply, ClientRequest, TrainOrder, Update
from fedrouter.routing.history import Event
from fedrouter.routing.types import TaskProfile
from fedrouter.server.staleness import current_adapter, current_reply, staleness_weight
from fedrouter.server.step_budget import limit_steps, mean_steps
from fedrouter.strategies import ServerState, TaskState, make_strategy
from fedrouter.types import AdapterWeights

A, B = "m.lora_A.weight", "m.lora_B.weight"


def adapter(a: float, b: float, rank: int = 2) -> AdapterWeights:
    return {A: np.full((rank, 3), a, np.float32), B: np.full((3, rank), b, np.float32)}


def request(
    round: int, start: AdapterWeights, steps: int = 4, name: str = "global"
) -> ClientRequest:
    order = TrainOrder((name,), steps)
    return ClientRequest(0, round, train=(order,), adapters={name: start})


def reply(round: int, trained: AdapterWeights, name: str = "global") -> ClientReply:
    return ClientReply(0, round, updates=(Update(0, name, trained, samples=5, loss=1.0, tokens=9),))


def state(round: int, **adapters: AdapterWeights) -> ServerState:
    return ServerState(round=round, base="base", adapters=adapters)


def profile(client: int, place: float) -> TaskProfile:
    return TaskProfile(client, np.full((1, 2), place, np.float32), (2,), (0.5,), (0.5,))


def level(answer: ClientReply, name: str = B) -> float:
    """The one number that a tensor of the only update consists of."""
    [update] = answer.updates
    assert np.ptp(update.weights[name]) == 0
    return float(update.weights[name].flat[0])


def test_weights_of_fedbuff() -> None:
    assert [staleness_weight(s) for s in (0, 3, 8)] == [1, 1 / 2, 1 / 3]


def test_a_late_movement_is_halved_after_three_rounds() -> None:
    late = current_reply(
        request(1, adapter(1, 10)),
        reply(1, adapter(3, 14)),  # moved by 2 and 4
        state(3, **{"global": adapter(7, 20)}),  # which counts in round 4
        {},
    )
    assert level(late, A) == 7 + 2 / 2
    assert level(late, B) == 20 + 4 / 2
    assert late.updates[0].samples == 5


def test_a_reply_in_time_is_left_as_it_is() -> None:
    start, given_reply = adapter(1, 10), reply(4, adapter(3, 14))
    same = current_reply(request(4, start), given_reply, state(3, **{"global": start}), {})
    assert same.updates[0].weights is given_reply.updates[0].weights


def test_movements_are_normalized_by_steps() -> None:
    start = adapter(1, 10)
    now = state(0, **{"global": start})
    steps = {"global": 3.0}  # the mean of 2 and 4
    for trained, own in ((adapter(1, 12), 2), (adapter(1, 14), 4)):  # one unit a step
        whole = current_reply(request(1, start, own), reply(1, trained), now, steps)
        assert level(whole) == pytest.approx(10 + 3)


def test_a_client_of_low_rank_moves_the_components_that_it_has() -> None:
    now = state(3, **{"global": adapter(7, 20, rank=4)})
    late = current_reply(request(1, adapter(1, 10)), reply(1, adapter(3, 14)), now, {})
    assert late.updates[0].weights[A].shape == (2, 3)
    assert level(late) == 22


def test_an_update_follows_its_task_into_the_one_it_was_merged_into() -> None:
    config = resolved("clustering.n_global=2")
    first = make_strategy(config).init([profile(0, 0), profile(1, 9)], adapter(1, 10), "base")
    assert isinstance(first, TaskState)
    events = (Event(1, "merged", "task-05", "task-03"), Event(2, "merged", "task-03", "task-00"))
    merged = replace(first, round=3, history=events)
    assert current_adapter(merged, "task-05") == "task-00"
    assert current_adapter(merged, "task-09") is None
    late = current_reply(
        request(1, adapter(1, 10), name="task-05"), reply(1, adapter(1, 14), "task-05"), merged, {}
    )
    assert late.updates[0].adapter == "task-00"
    assert level(late) == 10 + 2
    gone = current_reply(
        request(1, adapter(1, 10), name="task-09"), reply(1, adapter(1, 14), "task-09"), merged, {}
    )
    assert gone.updates == ()


def test_slow_clients_train_as_long_as_the_median() -> None:
    requests = [request(1, {}, steps=10) for _ in range(4)]
    requests = [replace(one, client=client) for client, one in enumerate(requests)]
    speeds = {0: 4.0, 1: 2.0, 2: 0.5}  # client 3 was never measured
    limited = limit_steps(requests, speeds)
    assert [one.train[0].steps for one in limited] == [10, 10, 2, 10]
    assert mean_steps(limited) == {"global": 8.0}
    assert limit_steps(requests, {}) == requests
    least = limit_steps(requests, {0: 1.0, 1: 1.0, 2: 0.001})
    assert least[2].train[0].steps == 1


@given(
    speeds=st.dictionaries(st.integers(0, 5), st.floats(1e-3, 1e3), max_size=6),
    steps=st.integers(1, 40),
)
def test_no_client_trains_more_steps_than_asked_for(speeds: dict[int, float], steps: int) -> None:
    requests = [replace(request(1, {}, steps=steps), client=c) for c in range(6)]
    for one in limit_steps(requests, speeds):
        assert 1 <= one.train[0].steps <= steps
