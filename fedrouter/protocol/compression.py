"""Adapter weights as they travel: float32, rounded to float16, or to int8 with a scale per rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import ClientRequest, ReassignByLoss
from fedrouter.types import AdapterWeights, FloatArray

TransportDtype = Literal["fp32", "fp16", "int8"]
DTYPES: Mapping[str, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
LEVELS = 127  # int8 values run from -LEVELS to LEVELS, so that negation is exact


@dataclass(frozen=True, eq=False)
class Encoded:
    """Weights on the wire.

    Attributes:
        transport: how `arrays` are rounded.
        arrays: the tensors, in the transport's dtype, by PEFT's names.
        scales: int8 only: float32, shape (rows, 1), or (1, columns) where those are fewer: what one
            step of the integers of a row or column is worth.
    """

    transport: TransportDtype
    arrays: Mapping[str, NDArray[Any]]
    scales: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers; names and headers are not counted."""
        return sum(array.nbytes for array in (*self.arrays.values(), *self.scales.values()))


def compression_for(task: ClientRequest, configured: TransportDtype) -> TransportDtype:
    """How the adapters of a task travel: in int8 where they are only tried on samples, neither
    trained nor served, else as configured."""
    tried = bool(task.compare) or isinstance(task.profile, ReassignByLoss)
    return "int8" if tried else configured


def encode(weights: AdapterWeights, transport: TransportDtype) -> Encoded:
    """Round `weights` for the wire.

    fp32 keeps every bit; fp16 rounds to the nearest; int8 makes of a row x of A, or a column of B,
    the integers round(x / scale) with scale = max|x| / 127, so that no number moves by more than
    scale / 2.

    Args:
        weights: float32 matrices.
        transport: "fp32", "fp16" or "int8".

    Raises:
        MessageError: a number is not finite, or too large for fp16 (65504).
    """
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise MessageError(
                f"tensor {name!r} does not hold finite numbers; lower training.lr if it diverged"
            )
    if transport == "int8":
        scales = {name: _scales(array) for name, array in weights.items()}
        return Encoded(
            transport,
            {name: _to_int8(array, scales[name]) for name, array in weights.items()},
            scales,
        )
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(DTYPES[transport]) for name, array in weights.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise MessageError(
                f"tensor {name!r} holds {abs(weights[name]).max():.4g}, too large for fp16; "
                "set federation.transport = 'fp32'"
            )
    return Encoded(transport, arrays)


def decode(encoded: Encoded) -> dict[str, FloatArray]:
    """The float32 weights that `encoded` stands for.

    Raises:
        MessageError: an unknown transport, a wrong dtype, scales that do not fit, or numbers that
            are not finite.
    """
    if encoded.transport not in DTYPES:
        raise MessageError(
            f"unknown transport {encoded.transport!r}; expected one of {', '.join(DTYPES)}"
        )
    expected = encoded.arrays.keys() if encoded.transport == "int8" else set()
    if encoded.scales.keys() != expected:
        raise MessageError(f"scales do not match the tensors of an {encoded.transport} message")
    return {name: _decode_one(encoded, name) for name in encoded.arrays}


def _decode_one(encoded: Encoded, name: str) -> FloatArray:
    array = encoded.arrays[name]
    if array.dtype != DTYPES[encoded.transport]:
        raise MessageError(f"tensor {name!r} is {array.dtype} in an {encoded.transport} message")
    values: FloatArray = array.astype(np.float32)
    if encoded.transport == "int8":
        scale = encoded.scales[name]
        fits = array.ndim == 2 and scale.shape == _scales(array).shape
        if scale.dtype != np.float32 or not fits:
            raise MessageError(f"tensor {name!r} is not a matrix with one float32 scale per rank")
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * scale
    if not np.isfinite(values).all():
        raise MessageError(f"tensor {name!r} does not hold finite numbers")
    return values


def _scales(matrix: NDArray[Any]) -> FloatArray:
    """The worth of one step of each row, or column where those are fewer; zero for zeros."""
    axis = 1 if matrix.shape[0] <= matrix.shape[1] else 0
    scales: FloatArray = np.abs(matrix).max(axis, keepdims=True, initial=0) / np.float32(LEVELS)
    return scales


def _to_int8(matrix: FloatArray, scales: FloatArray) -> NDArray[np.int8]:
    steps = np.divide(matrix, scales, out=np.zeros_like(matrix), where=scales > 0)
    return np.rint(steps).clip(-LEVELS, LEVELS).astype(np.int8)
