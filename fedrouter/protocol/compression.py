"""Adapter weights on the wire: float32, rounded to float16, or to int8 with a scale per rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import ClientRequest, ReassignByLoss
from fedrouter.types import AdapterWeights, FloatArray

TransportDtype = Literal["float32", "float16", "int8"]
DTYPES: Mapping[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
}
MAX_NUMBER = 1e6  # in an adapter; trained ones stay below 100
LEVELS = 127  # int8 values run from -LEVELS to LEVELS, so that negation is exact


@dataclass(frozen=True, eq=False)
class EncodedWeights:
    """Weights on the wire.

    Attributes:
        arrays: the tensors, float32, float16 or int8, by PEFT's names.
        scales: of int8 tensors: float32, shape (rows, 1), or (1, columns) if those are fewer: the
            value of one integer step in a row or column.
    """

    arrays: Mapping[str, NDArray[Any]]
    scales: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers, without names and header."""
        return sum(array.nbytes for array in (*self.arrays.values(), *self.scales.values()))

    def parts(self, name: str) -> list[NDArray[Any]]:
        """A tensor, followed by its scales if it has any."""
        return [self.arrays[name], *([self.scales[name]] if name in self.scales else [])]

    @classmethod
    def of_parts(cls, parts: Mapping[str, list[NDArray[Any]]]) -> "EncodedWeights":
        """The weights whose `parts` these are."""
        return cls(
            {name: both[0] for name, both in parts.items()},
            {name: both[1] for name, both in parts.items() if len(both) > 1},
        )


class WeightsEncoder:
    """Encodes adapters, each once for each dtype: a round sends the same ones to many clients."""

    def __init__(self) -> None:
        self._encoded: dict[tuple[int, str], tuple[AdapterWeights, EncodedWeights]] = {}
        self._decoded: dict[int, AdapterWeights] = {}

    def encode(self, weights: AdapterWeights, transport: TransportDtype) -> EncodedWeights:
        """As the function `encode`."""
        key = id(weights), transport
        if key not in self._encoded:
            self._encoded[key] = weights, encode(weights, transport)  # `weights` keeps its id
        return self._encoded[key][1]

    def transmit(
        self, weights: AdapterWeights, transport: TransportDtype
    ) -> tuple[AdapterWeights, int]:
        """Weights as they arrive at the other side, and the bytes that they take."""
        encoded = self.encode(weights, transport)
        if id(encoded) not in self._decoded:
            self._decoded[id(encoded)] = decode(encoded)
        return self._decoded[id(encoded)], encoded.nbytes


def compression_for(request: ClientRequest, configured: TransportDtype) -> TransportDtype:
    """The dtype in which the adapters of a request travel: int8 if they are only compared on
    samples, neither trained nor used to answer; else as configured."""
    compared = bool(request.compare) or isinstance(request.profile, ReassignByLoss)
    return "int8" if compared else configured


def encode(weights: AdapterWeights, transport: TransportDtype) -> EncodedWeights:
    """Round `weights` for the wire.

    float32 keeps every bit; float16 rounds to the nearest; int8 turns a row x of A, or a column of
    B, into the integers round(x / scale) with scale = max|x| / 127, so that no number changes by
    more than scale / 2.

    Args:
        weights: float32 matrices.
        transport: the dtype.

    Raises:
        MessageError: a number is not finite, or too large for float16 (65504): the training that
            gave it diverged.
    """
    scales: dict[str, FloatArray] = {}
    if transport == "int8":
        scales = {name: _scales(array) for name, array in weights.items()}
        checked: Mapping[str, NDArray[Any]] = scales  # a maximum is NaN if any number is
        arrays = {name: _to_int8(array, scales[name]) for name, array in weights.items()}
    else:
        with np.errstate(over="ignore"):
            arrays = {name: array.astype(DTYPES[transport]) for name, array in weights.items()}
        checked = arrays
    for name, array in checked.items():
        if not np.isfinite(array).all():
            raise MessageError(_diverged(name, weights[name], transport))
    return EncodedWeights(arrays, scales)


def decode(encoded: EncodedWeights) -> dict[str, FloatArray]:
    """The float32 weights that `encoded` stands for.

    Raises:
        MessageError: an unknown dtype, scales that do not fit, or numbers that no adapter has.
    """
    return {name: _decode_one(name, *encoded.parts(name)) for name in encoded.arrays}


def _decode_one(name: str, array: NDArray[Any], scale: NDArray[Any] | None = None) -> FloatArray:
    if array.dtype.name not in DTYPES or (array.dtype == np.int8) != (scale is not None):
        raise MessageError(
            f"tensor {name!r}: expected float32, float16, or int8 with scales, got {array.dtype} "
            f"with{'' if scale is not None else 'out'} scales"
        )
    values: FloatArray = array.astype(np.float32)
    if scale is not None:
        fits = array.ndim == 2 and scale.shape == _scales(array).shape
        if scale.dtype != np.float32 or not fits:
            raise MessageError(
                f"tensor {name!r}: expected a matrix with one float32 scale per rank"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * scale
    largest = max(values.max(initial=0), -values.min(initial=0))  # NaN if any number is
    if not largest <= MAX_NUMBER:
        raise MessageError(
            f"tensor {name!r}: expected finite numbers up to {MAX_NUMBER:g}; lower training.lr if "
            "training diverged"
        )
    return values


def _diverged(name: str, array: FloatArray, transport: TransportDtype) -> str:
    largest = float(np.abs(array).max())
    if np.isfinite(largest):
        return (
            f"tensor {name!r} holds {largest:.4g}, too large for {transport}: its training "
            "probably diverged; lower training.lr, or set federation.transport = 'float32'"
        )
    return f"tensor {name!r} holds NaN or infinity: its training diverged; lower training.lr"


def _scales(matrix: NDArray[Any]) -> FloatArray:
    """The value of one step in each row, or column if those are fewer; zero for zeros."""
    axis = 1 if matrix.shape[0] <= matrix.shape[1] else 0
    scales: FloatArray = np.abs(matrix).max(axis, keepdims=True, initial=0) / np.float32(LEVELS)
    return scales


def _to_int8(matrix: FloatArray, scales: FloatArray) -> NDArray[np.int8]:
    steps = np.divide(matrix, scales, out=np.zeros_like(matrix), where=scales > 0)
    with np.errstate(invalid="ignore"):
        return np.rint(steps).clip(-LEVELS, LEVELS).astype(np.int8)
