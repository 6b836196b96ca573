"""Adapter weights on the wire: float32, or rounded to float16, int8 or int4."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import ClientRequest
from fedrouter.protocol.movement import difference, restored
from fedrouter.protocol.profile_orders import ReassignByLoss
from fedrouter.protocol.quantization import from_int4, from_int8, to_int4, to_int8
from fedrouter.types import AdapterWeights, FloatArray

TransportDtype = Literal["float32", "float16", "int8", "int4"]
INTEGERS = ("int8", "int4")  # the dtypes in which numbers are rounded to multiples of a scale
DTYPES: Mapping[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
}
MAX_NUMBER = 1e6  # in an adapter; trained ones stay below 100


@dataclass(frozen=True, eq=False)
class EncodedWeights:
    """Weights on the wire.

    Attributes:
        arrays: the tensors, float32, float16 or int8, or int4 as uint8, by PEFT's names.
        scales: of int8 and int4 tensors, float32 (see `protocol.quantization`).
        shapes: of int4 tensors, whose arrays are vectors.
        unchanged: the tensors of an adapter that does not travel, since the receiver has it.
    """

    arrays: Mapping[str, NDArray[Any]]
    scales: Mapping[str, FloatArray] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers, without names, shapes and header."""
        return sum(array.nbytes for array in (*self.arrays.values(), *self.scales.values()))


class WeightsEncoder:
    """Encodes adapters, each once for each dtype: a round sends the same ones to many clients.

    Args:
        start: an adapter that the receiver has too; differences to it travel, and nothing if there
            are none. None: the adapters themselves travel.
    """

    def __init__(self, start: AdapterWeights | None = None) -> None:
        self._start = start or {}
        self._encoded: dict[tuple[int, str], tuple[AdapterWeights, EncodedWeights]] = {}
        self._decoded: dict[int, AdapterWeights] = {}

    def encode(self, weights: AdapterWeights, transport: TransportDtype) -> EncodedWeights:
        """As the function `encode`, of the difference."""
        key = id(weights), transport
        if key not in self._encoded:
            changes = difference(weights, self._start)
            same = weights.keys() <= self._start.keys() and not any(map(np.any, changes.values()))
            encoded = EncodedWeights({}, unchanged=tuple(weights))
            self._encoded[key] = weights, encoded if same else encode(changes, transport)
        return self._encoded[key][1]  # `weights` keeps its id

    def transmit(
        self, weights: AdapterWeights, transport: TransportDtype
    ) -> tuple[AdapterWeights, int]:
        """Weights as they arrive at the other side, and the bytes that they take."""
        encoded = self.encode(weights, transport)
        if id(encoded) not in self._decoded:
            self._decoded[id(encoded)] = received(encoded, self._start)
        return self._decoded[id(encoded)], encoded.nbytes


def compression_for(request: ClientRequest, configured: TransportDtype) -> TransportDtype:
    """The dtype in which the adapters of a request travel.

    It is int8 if they are only compared on samples, and at least float16 if they are evaluated
    without being trained, since what is exported is not rounded; else as configured.
    """
    if request.compare or isinstance(request.profile, ReassignByLoss):
        return "int8"
    evaluated = request.evaluate is not None and not request.train
    return "float16" if evaluated and configured in INTEGERS else configured


def encode(weights: AdapterWeights, transport: TransportDtype) -> EncodedWeights:
    """Round `weights` for the wire; float32 keeps every bit, float16 rounds to the nearest, and
    int8 and int4 round to multiples of a scale (see `protocol.quantization`).

    Args:
        weights: float32 matrices.
        transport: the dtype.

    Raises:
        MessageError: a number is not finite, or too large for float16 (65504): the training that
            gave it diverged.
    """
    if transport in INTEGERS:
        rounded = to_int8 if transport == "int8" else to_int4
        pairs = {name: rounded(array) for name, array in weights.items()}
        arrays: Mapping[str, NDArray[Any]] = {name: pair[0] for name, pair in pairs.items()}
        scales = {name: pair[1] for name, pair in pairs.items()}
        checked: Mapping[str, NDArray[Any]] = scales  # a maximum is NaN if any number is
    else:
        with np.errstate(over="ignore"):
            arrays = {name: array.astype(DTYPES[transport]) for name, array in weights.items()}
        scales, checked = {}, arrays
    for name, array in checked.items():
        if not np.isfinite(array).all():
            raise MessageError(_diverged(name, weights[name], transport))
    packed = weights if transport == "int4" else {}
    shapes = {name: (array.shape[0], array.shape[1]) for name, array in packed.items()}
    return EncodedWeights(arrays, scales, shapes)


def decode(encoded: EncodedWeights) -> dict[str, FloatArray]:
    """The float32 weights that `encoded` stands for.

    Raises:
        MessageError: an unknown dtype, scales or a shape that do not fit, or numbers that no
            adapter has.
    """
    weights = {}
    for name, array in encoded.arrays.items():
        scales, shape = encoded.scales.get(name), encoded.shapes.get(name)
        try:
            values = _decode_one(array, scales, shape)
        except ValueError as error:
            raise MessageError(f"tensor {name!r}: {error}") from None
        largest = max(values.max(initial=0), -values.min(initial=0))  # NaN if any number is
        if not largest <= MAX_NUMBER:
            raise MessageError(
                f"tensor {name!r}: expected finite numbers up to {MAX_NUMBER:g}; lower "
                "training.lr if training diverged"
            )
        weights[name] = values
    return weights


def received(encoded: EncodedWeights, start: AdapterWeights) -> dict[str, FloatArray]:
    """The weights that a `WeightsEncoder` with this `start` encoded.

    Raises:
        MessageError: as `decode` and `movement.restored`, or `start` lacks an unchanged tensor.
    """
    if not encoded.unchanged:
        return restored(decode(encoded), start)
    if encoded.arrays or not start.keys() >= set(encoded.unchanged):
        raise MessageError("adapter: expected all of its tensors, or none and names that are known")
    return {name: start[name] for name in encoded.unchanged}


def _decode_one(
    array: NDArray[Any], scales: FloatArray | None, shape: tuple[int, int] | None
) -> FloatArray:
    if scales is None and shape is None and array.dtype in (np.float32, np.float16):
        return array.astype(np.float32)
    if scales is not None and shape is None and array.dtype == np.int8:
        return from_int8(array, scales)
    if scales is not None and shape is not None and array.dtype == np.uint8:
        return from_int4(array, scales, shape)
    raise ValueError(
        "expected float32, float16, int8 with scales, or int4 with scales and a shape, got "
        f"{array.dtype} with{'out' if scales is None else ''} scales"
    )


def _diverged(name: str, array: FloatArray, transport: TransportDtype) -> str:
    largest = float(np.abs(array).max())
    if np.isfinite(largest):
        return (
            f"tensor {name!r} holds {largest:.4g}, too large for {transport}: its training "
            "probably diverged; lower training.lr, or set federation.transport = 'float32'"
        )
    return f"tensor {name!r} holds NaN or infinity: its training diverged; lower training.lr"
