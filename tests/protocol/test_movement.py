import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import ClientReply, Update
from fedrouter.protocol.movement import difference, movements, restored, with_weights
from fedrouter.protocol.ranks import truncate

A, B = "m.lora_A.weight", "m.lora_B.weight"
START = {A: np.array([[1, 2, 3], [4, 5, 6]], np.float32), B: np.ones((3, 2), np.float32)}


def test_a_difference_by_hand() -> None:
    changed = {A: np.array([[1.5, 2, 3], [4, 5, 7]], np.float32), "other": np.ones((1, 1))}
    found = difference(changed, START)
    assert found[A].tolist() == [[0.5, 0, 0], [0, 0, 1]]
    assert found["other"] is changed["other"]  # as it is, if the start lacks it
    assert restored(found, START)[A].tolist() == changed[A].tolist()


def test_adapters_of_a_lower_rank_are_compared_with_the_first_components() -> None:
    low = truncate(START, 1)
    assert {name: array.tolist() for name, array in difference(low, START).items()} == {
        A: [[0, 0, 0]],
        B: [[0], [0], [0]],
    }
    assert restored(difference(low, START), START)[A].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (2,), (2, 3, 1), ()])
def test_larger_tensors_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MessageError, match=r"at most the shape \(2, 3\)"):
        restored({A: np.zeros(shape, np.float32)}, START)


@given(arrays(np.float32, (2, 3), elements=st.floats(-9, 9, width=32)))
def test_a_difference_is_restored_up_to_rounding(matrix: NDArray[np.float32]) -> None:
    back = restored(difference({A: matrix}, START), START)
    np.testing.assert_allclose(back[A], matrix, atol=2e-6)


def test_updates_are_movements_from_the_adapter_that_was_chosen() -> None:
    reply = ClientReply(
        0,
        1,
        updates=(
            Update(0, "b", {A: START[A] + 2}, 3, 1.0, 5),
            Update(1, None, {A: START[A]}, 3, 1.0, 5),
            Update(2, "a", {}, 3, 1.0, 5),
        ),
    )
    received = {"a": START, "b": {A: START[A] + 1}}
    moved = movements(reply, received)
    assert moved.updates[0].weights[A].tolist() == np.ones((2, 3)).tolist()
    assert moved.updates[1].weights[A].tolist() == START[A].tolist()
    assert moved.updates[2].weights == {}
    exact = {"a": START, "b": {A: START[A] + 1.25}}  # what the server rounded before sending
    assert with_weights(moved, exact).updates[0].weights[A].tolist() == (START[A] + 2.25).tolist()
    foreign = ClientReply(0, 1, updates=(Update(0, "unknown", {A: START[A]}, 3, 1.0, 5),))
    assert with_weights(foreign, exact).updates[0].weights is not None  # refused when checked
