from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedrouter.client.error_feedback import with_feedback
from fedrouter.client.store import ClientStore
from fedrouter.protocol.messages import ClientReply, TrainOrder, Update

A = "m.lora_A.weight"
ORDERS = (TrainOrder(("task-00",), 1, local_task=1),)


def sent(store: ClientStore, round: int, movement: NDArray[np.float32], transport: str = "int4"):
    reply = ClientReply(3, round, updates=(Update(0, "task-00", {A: movement}, 3, 1.0, 5),))
    [update] = with_feedback(reply, ORDERS, store, transport).updates
    return update.weights[A]


def test_by_hand(tmp_path: Path) -> None:
    store, movement = ClientStore(tmp_path, 3, []), np.array([[7, 0.375]], np.float32)
    # 0.375, then 0.75, 0.125 and 0.5, of which half a step or more is sent as one step.
    assert sent(store, 1, movement).tolist() == [[7, 0]]
    assert sent(store, 2, movement).tolist() == [[7, 1]]
    assert sent(store, 3, movement).tolist() == [[7, 0]]
    assert store.kept("errors/task-00.1", 4)[A].tolist() == [[0, 0.125]]


def test_a_round_that_is_repeated_sends_the_same(tmp_path: Path) -> None:
    store, movement = ClientStore(tmp_path, 3, []), np.array([[7, 0.375]], np.float32)
    for round in (1, 2, 2, 1, 2):
        assert sent(store, round, movement).tolist() == [[7, round - 1]]


def test_errors_belong_to_an_adapter_and_a_shape(tmp_path: Path) -> None:
    store, movement = ClientStore(tmp_path, 3, []), np.array([[7, 0.375]], np.float32)
    sent(store, 1, movement)
    other = ClientReply(3, 2, updates=(Update(0, "task-01", {A: movement}, 3, 1.0, 5),))
    [update] = with_feedback(other, ORDERS, store, "int4").updates
    assert update.weights[A].tolist() == [[7, 0]]
    grown = np.array([[7, 0.375, 0.375]], np.float32)  # the node has another rank now
    assert sent(store, 2, grown).tolist() == [[7, 0, 0]]


def test_what_loses_less_is_left_alone(tmp_path: Path) -> None:
    movement = np.array([[7, 0.375]], np.float32)
    store = ClientStore(tmp_path, 3, [])
    for transport in ("float32", "float16", "int8"):
        assert sent(store, 1, movement, transport) is movement
    own = ClientReply(3, 1, updates=(Update(0, None, {A: movement}, 3, 1.0, 5),))
    assert with_feedback(own, ORDERS, store, "int4").updates[0].weights[A] is movement
    assert not store.path.exists()


@settings(max_examples=20)
@given(arrays(np.float32, (4, 2, 70), elements=st.floats(-1, 1, width=16)))
def test_the_sum_of_what_is_sent_lacks_the_last_error_alone(rounds: NDArray[np.float32]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        store = ClientStore(Path(folder), 3, [])
        total = sum(sent(store, round, movement) for round, movement in enumerate(rounds, 1))
        error = store.kept("errors/task-00.1", 5)[A]
    np.testing.assert_allclose(total + error, rounds.sum(axis=0), atol=1e-5)
    assert np.abs(error).max(initial=0) <= 1 / 7  # half a step of at most 2 / 7
