"""Matrices as integers of 8 or 4 bits with float32 scales.

int8 has a scale for each rank: a row x of LoRA's A, or a column of B, becomes the integers
round(x / scale) with scale = max|x| / 127. int4 has a scale max|x| / 7 for each block of 64 numbers
along the ranks, and two integers in a byte. No number changes by more than half a scale.

The last eight bits of a scale are zero, so that its products with the integers are exact: a matrix
that was rounded before does not change.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedrouter.types import FloatArray

BLOCK = 64  # numbers of an int4 matrix that share a scale
SCALE_BYTES = 4
INT8_LEVELS = 127  # integers run from -levels to levels, so that negation is exact
INT4_LEVELS = 7
INT4_ZERO = 8  # added to integers of 4 bits, so that they are not negative
EXACT = np.uint32(0xFFFFFF00)  # the bits of a scale that are kept


def int8_bytes(shape: Sequence[int]) -> int:
    """The bytes of a matrix as int8, with its scales."""
    return prod(shape) + SCALE_BYTES * min(shape)


def int4_bytes(shape: Sequence[int]) -> int:
    """The bytes of a matrix as int4, with its scales."""
    numbers = prod(shape)
    return (numbers + 1) // 2 + SCALE_BYTES * _blocks(numbers)


def most_numbers(shape: Sequence[int]) -> int:
    """The most numbers that a matrix and its scales are, in any format."""
    numbers = prod(shape)
    return numbers + 1 + max(*shape, _blocks(numbers))


def to_int8(matrix: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """A float32 matrix as int8, and its scales, shape (rows, 1), or (1, columns) if those are
    fewer. The scales are not finite if the matrix is not."""
    axis = _long_axis(matrix.shape)
    scales = _scales(np.abs(matrix).max(axis, keepdims=True, initial=0), INT8_LEVELS)
    return _integers(matrix, scales, INT8_LEVELS), scales


def from_int8(matrix: NDArray[np.int8], scales: FloatArray) -> FloatArray:
    """The float32 matrix that `to_int8` rounded.

    Raises:
        ValueError: the two do not fit each other.
    """
    if matrix.ndim == 2:
        expected = list(matrix.shape)
        expected[_long_axis(matrix.shape)] = 1
        if scales.dtype == np.float32 and list(scales.shape) == expected:
            with np.errstate(over="ignore", invalid="ignore"):
                values: FloatArray = matrix.astype(np.float32) * scales
            return values
    raise ValueError("expected a matrix with one float32 scale per rank")


def to_int4(matrix: FloatArray) -> tuple[NDArray[np.uint8], FloatArray]:
    """A float32 matrix of n numbers as int4, shape ((n + 1) // 2,), and the scales of its blocks,
    shape (ceil(n / 64),). The scales are not finite if the matrix is not."""
    values = (matrix.T if _long_axis(matrix.shape) == 0 else matrix).ravel()
    blocks = np.zeros((_blocks(len(values)), BLOCK), np.float32)
    blocks.reshape(-1)[: len(values)] = values
    scales = _scales(np.abs(blocks).max(axis=1, initial=0), INT4_LEVELS)
    integers = _integers(blocks, scales[:, None], INT4_LEVELS).reshape(-1)
    nibbles = (integers[: len(values) + len(values) % 2] + INT4_ZERO).astype(np.uint8)
    return nibbles[::2] | nibbles[1::2] << np.uint8(4), scales


def from_int4(packed: NDArray[np.uint8], scales: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """The float32 matrix that `to_int4` rounded.

    Args:
        packed: two integers in a byte, the first in the lower half.
        scales: those of the blocks.
        shape: of the matrix.

    Raises:
        ValueError: the three do not fit each other.
    """
    numbers = prod(shape)
    fits = packed.shape == ((numbers + 1) // 2,) and scales.shape == (_blocks(numbers),)
    if min(shape) < 0 or scales.dtype != np.float32 or not fits:
        raise ValueError(
            f"expected two integers in a byte and a float32 scale for each {BLOCK} numbers"
        )
    integers = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:numbers].astype(np.int8)
    with np.errstate(over="ignore", invalid="ignore"):
        values = (integers - INT4_ZERO).astype(np.float32) * np.repeat(scales, BLOCK)[:numbers]
    along_columns = _long_axis(shape) == 0
    matrix: FloatArray = values.reshape(shape[::-1] if along_columns else shape)
    return np.ascontiguousarray(matrix.T) if along_columns else matrix


def _long_axis(shape: Sequence[int]) -> int:
    """The axis that does not count ranks: 1 in A, 0 in B."""
    return 1 if shape[0] <= shape[1] else 0


def _blocks(numbers: int) -> int:
    return -(-numbers // BLOCK)


def _scales(largest: FloatArray, levels: int) -> FloatArray:
    """The value of one integer step where the largest number has the value `largest`."""
    scales = np.ascontiguousarray(largest / np.float32(levels))
    return (scales.view(np.uint32) & EXACT).view(np.float32)


def _integers(numbers: FloatArray, scales: FloatArray, levels: int) -> NDArray[np.int8]:
    with np.errstate(invalid="ignore"):  # the scales of such numbers are not finite either
        steps = np.divide(numbers, scales, out=np.zeros_like(numbers), where=scales > 0)
        return np.rint(steps).clip(-levels, levels).astype(np.int8)
