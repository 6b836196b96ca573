from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.compression import (
    EncodedWeights,
    TransportDtype,
    WeightsEncoder,
    compression_for,
    decode,
    encode,
    received,
)
from fedrouter.protocol.messages import ClientRequest, Comparison, EvaluateOrder, TrainOrder
from fedrouter.protocol.profile_orders import ClusterPrompts, ReassignByLoss
from fedrouter.protocol.serving_rules import SingleAdapter
from fedrouter.routing.types import TaskGeometry

FLOATS = st.floats(-60000, 60000, width=32).map(lambda x: x if abs(x) > 1e-30 else 0.0)
MATRICES = arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 4)), elements=FLOATS)


def weights(*rows: tuple[float, ...]) -> dict[str, NDArray[np.float32]]:
    return {"a": np.array(rows, np.float32)}


def test_int8_by_hand() -> None:
    encoded = encode(weights((127, -63.6, 0.4), (0, 0, 0), (-254, 2.9, 1)), "int8")
    assert encoded.arrays["a"].tolist() == [[127, -64, 0], [0, 0, 0], [-127, 1, 0]]
    assert encoded.scales["a"].tolist() == [[1], [0], [2]]
    assert decode(encoded)["a"].tolist() == [[127, -64, 0], [0, 0, 0], [-254, 2, 0]]


def test_int8_has_a_scale_for_each_rank() -> None:
    tall = {"b": np.array([[127, -2], [1, 4], [0, 254]], np.float32)}
    encoded = encode(tall, "int8")
    assert encoded.arrays["b"].tolist() == [[127, -1], [1, 2], [0, 127]]
    assert encoded.scales["b"].tolist() == [[1, 2]]
    assert decode(encoded)["b"].tolist() == tall["b"].tolist()


GEOMETRY = TaskGeometry(("a",), np.ones((1, 2), np.float32), 1.0, 1.0, 1.0)


def test_what_is_compared_travels_as_int8_and_what_is_evaluated_is_not_rounded_to_integers() -> (
    None
):
    compare = ClientRequest(0, 1, compare=(Comparison(0, ("a",)),))
    regroup = ClientRequest(0, 1, profile=ReassignByLoss(GEOMETRY, ("a",)))
    train = ClientRequest(0, 1, train=(TrainOrder(("a",), 1),))
    place = ClientRequest(0, 1, profile=ClusterPrompts())
    evaluate = ClientRequest(0, 1, evaluate=EvaluateOrder(SingleAdapter("a"), ("local",)))
    both = replace(train, evaluate=evaluate.evaluate)  # trains what it evaluates
    requests = compare, regroup, train, place, evaluate, both
    found = {
        configured: [compression_for(request, configured) for request in requests]
        for configured in ("float32", "float16", "int8", "int4")
    }
    assert found == {
        "float32": ["int8", "int8", *["float32"] * 4],
        "float16": ["int8", "int8", *["float16"] * 4],
        "int8": ["int8", "int8", "int8", "int8", "float16", "int8"],
        "int4": ["int8", "int8", "int4", "int4", "float16", "int4"],
    }


@pytest.mark.parametrize(
    ("transport", "nbytes"), [("float32", 48), ("float16", 24), ("int8", 20), ("int4", 10)]
)
def test_bytes_on_the_wire(transport: TransportDtype, nbytes: int) -> None:
    encoded = encode({"a": np.ones((2, 6), np.float32)}, transport)
    assert encoded.nbytes == nbytes


@given(MATRICES)
def test_float32_keeps_every_bit(matrix: NDArray[np.float32]) -> None:
    decoded = decode(encode({"a": matrix}, "float32"))
    assert decoded["a"].dtype == np.float32
    assert decoded["a"].tobytes() == matrix.tobytes()


@given(MATRICES)
def test_float16_rounds_once(matrix: NDArray[np.float32]) -> None:
    once = decode(encode({"a": matrix}, "float16"))
    np.testing.assert_allclose(once["a"], matrix, rtol=2**-11, atol=2**-24)
    assert decode(encode(once, "float16"))["a"].tobytes() == once["a"].tobytes()


def test_what_does_not_fit_float16_is_refused() -> None:
    with pytest.raises(MessageError, match=r"'a' holds 7e\+04.*float32"):
        encode(weights((1, -70000)), "float16")


@pytest.mark.parametrize("transport", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(transport: TransportDtype, value: float) -> None:
    with pytest.raises(MessageError, match="NaN or infinity"):
        encode(weights((value, 1)), transport)


INT8 = np.ones((1, 2), np.int8)
SCALE = np.ones((1, 1), np.float32)
PACKED = np.ones(1, np.uint8)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (EncodedWeights({"a": np.array([None])}), "got object"),
        (EncodedWeights({"a": np.ones((1, 1))}), "got float64"),
        (EncodedWeights({"a": np.full((1, 1), np.nan, np.float16)}), "finite"),
        (EncodedWeights({"a": np.array([[1, np.nan]], np.float32)}), "finite"),
        (EncodedWeights({"a": np.array([[1, np.inf]], np.float32)}), "finite"),
        (EncodedWeights({"a": np.array([[1, -1e7]], np.float32)}), r"up to 1e\+06"),
        (EncodedWeights({"a": np.ones((1, 1), np.float16)}, {"a": SCALE}), "with scales"),
        (EncodedWeights({"a": INT8}), "without scales"),
        (EncodedWeights({"a": PACKED}, {"a": SCALE[0]}), "got uint8"),
        (EncodedWeights({"a": PACKED}, {}, {"a": (1, 2)}), "without scales"),
        (EncodedWeights({"a": INT8}, {"a": SCALE}, {"a": (1, 2)}), "got int8"),
        (EncodedWeights({"a": PACKED}, {"a": SCALE}, {"a": (1, 2)}), "two integers in a byte"),
        (EncodedWeights({"a": PACKED}, {"a": SCALE[0] * np.nan}, {"a": (1, 2)}), "finite"),
        (EncodedWeights({"a": INT8}, {"a": np.ones((2, 1), np.float32)}), "per rank"),
        (EncodedWeights({"a": INT8}, {"a": np.ones((1, 1))}), "per rank"),  # type: ignore[dict-item]
        (EncodedWeights({"a": INT8[0]}, {"a": SCALE}), "per rank"),
        (EncodedWeights({"a": INT8}, {"a": SCALE * np.inf}), "finite"),
        (EncodedWeights({"a": INT8 * 100}, {"a": SCALE * 3e38}), "finite"),
    ],
)
def test_messages_that_cannot_be_right_are_refused(encoded: EncodedWeights, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        decode(encoded)


def test_an_encoder_encodes_an_adapter_once_for_each_dtype() -> None:
    encoder, one, equal = WeightsEncoder(), weights((1, 2)), weights((1, 2))
    half = encoder.encode(one, "float16")
    assert encoder.encode(one, "float16") is half
    assert encoder.encode(one, "int8").arrays["a"].dtype == np.int8
    assert encoder.encode(equal, "float16") is not half  # it goes by identity
    received, nbytes = encoder.transmit(one, "float16")
    assert (received["a"].tolist(), nbytes) == ([[1, 2]], 4)
    assert encoder.transmit(one, "float16")[0] is received


def test_an_encoder_does_not_mistake_an_adapter_for_one_that_is_gone() -> None:
    encoder = WeightsEncoder()
    for value in range(50):  # each could get the id of the one before, were that not held
        assert encoder.transmit(weights((value,)), "float32")[0]["a"].tolist() == [[value]]


def test_an_encoder_sends_the_difference_to_what_the_receiver_has() -> None:
    start = weights((100, 200))
    encoder = WeightsEncoder(start)
    changed = weights((107, 203))
    assert decode(encoder.encode(changed, "int4"))["a"].tolist() == [[7, 3]]
    arrived, nbytes = encoder.transmit(changed, "int4")
    assert (arrived["a"].tolist(), nbytes) == ([[107, 203]], 1 + 4)
    same, nbytes = encoder.transmit(weights((100, 200)), "int4")
    assert (same["a"].tolist(), nbytes) == ([[100, 200]], 0)
    zero, nbytes = WeightsEncoder().transmit(weights((0, 0)), "int4")
    assert (zero["a"].tolist(), nbytes) == ([[0, 0]], 5)


@pytest.mark.parametrize(
    "encoded",
    [
        EncodedWeights({}, unchanged=("b",)),
        EncodedWeights({"b": SCALE}, unchanged=("a",)),
    ],
)
def test_an_unchanged_adapter_is_one_that_the_receiver_has(encoded: EncodedWeights) -> None:
    with pytest.raises(MessageError, match="all of its tensors, or none"):
        received(encoded, {"a": SCALE})
