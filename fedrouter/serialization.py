"""Dataclasses as JSON and named arrays, and back: `serialize` and `deserialize`.

The arrays of a dataclass's fields (see `fedrouter.types`) are put into an `ArrayTable`, and the
JSON refers to them by key. The wire, checkpoints and the router's file all use this one pair.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    FieldSerializationInfo,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import core_schema

from fedrouter.errors import printable

Value = TypeVar("Value")

MAX_FAULT = 300  # characters of a fault, which may quote what somebody sent

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)  # each is built once


class ArrayTable:
    """The arrays of a dataclass, by key.

    Args:
        arrays: what to read from; each array can be taken once. None: an empty table to write to.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        self.arrays: dict[str, NDArray[Any]] = dict(arrays or {})

    def put(self, array: NDArray[Any], name: str = "") -> str:
        """Add an array; returns its key, which is `name` if no other array has it."""
        key = name if name and name not in self.arrays else f"{name}{len(self.arrays)}"
        self.arrays[key] = array
        return key

    def take(self, key: Any) -> NDArray[Any]:
        """Remove an array and return it.

        Raises:
            ValueError: there is none (any more).
        """
        if not isinstance(key, str) or key not in self.arrays:
            raise ValueError("should refer to an array of its own")
        return self.arrays.pop(key)

    def put_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
        """Add the tensors of an adapter; returns what refers to them."""
        return {name: self.put(array) for name, array in weights.items()}

    def take_weights(self, references: Any) -> dict[str, NDArray[np.float32]]:
        """Remove the tensors of an adapter and return them.

        Raises:
            ValueError: the references are not what `put_weights` returns.
        """
        if not isinstance(references, dict):
            raise ValueError("should be a table of tensors")
        return {str(name): self.take_float(key) for name, key in references.items()}

    def take_float(self, key: Any) -> NDArray[np.float32]:
        """As `take`, for an array of finite float32 numbers."""
        array = self.take(key)
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"expected finite float32 numbers, got {array.dtype}")
        return array


class ArrayField:
    """Marks a field as an array of finite float32 numbers."""

    def put(self, value: Any, info: FieldSerializationInfo) -> Any:
        """What stands for the array of a field in JSON."""
        return _table(info).put(value, info.field_name)

    def take(self, value: Any, info: ValidationInfo) -> Any:
        """The array that `put` added."""
        return _table(info).take_float(value)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """How pydantic reads and writes the field."""
        return core_schema.with_info_plain_validator_function(
            self.take,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda _, value, info: self.put(value, info),
                is_field_serializer=True,
                info_arg=True,
            ),
        )


class ByteField(ArrayField):
    """Marks a matrix of bytes, one row for each client."""

    def take(self, value: Any, info: ValidationInfo) -> Any:
        """The matrix that `put` added."""
        array = _table(info).take(value)
        if array.dtype != np.uint8 or array.ndim != 2:
            raise ValueError(f"expected a matrix of bytes, got {array.dtype}")
        return array


class IntegerField(ArrayField):
    """Marks a masked vector: integers modulo 2^32 or 2^64."""

    def take(self, value: Any, info: ValidationInfo) -> Any:
        """The vector that `put` added."""
        array = _table(info).take(value)
        if array.dtype not in (np.uint32, np.uint64) or array.ndim != 1:
            raise ValueError(f"expected a vector of uint32 or uint64, got {array.dtype}")
        return array


class SpaceField(ArrayField):
    """Marks a matrix of which only the upper triangle is stored if it is symmetric."""

    def put(self, value: Any, info: FieldSerializationInfo) -> Any:
        """What stands for the matrix in JSON."""
        symmetric = len(value) == value.shape[1] and (value == value.T).all()
        array = upper_triangle(value) if symmetric else value
        return _table(info).put(array, info.field_name)

    def take(self, value: Any, info: ValidationInfo) -> Any:
        """The matrix that `put` added."""
        array = _table(info).take_float(value)
        return symmetric_matrix(array) if array.ndim == 1 else array


class WeightsField(ArrayField):
    """Marks a field as the tensors of an adapter."""

    def put(self, value: Any, info: FieldSerializationInfo) -> Any:
        """What stands for the tensors in JSON."""
        return _table(info).put_weights(value)

    def take(self, value: Any, info: ValidationInfo) -> Any:
        """The tensors that `put` added."""
        return _table(info).take_weights(value)


def _table(info: ValidationInfo | FieldSerializationInfo) -> ArrayTable:
    """The table that `serialize` or `deserialize` was given."""
    table: ArrayTable = info.context  # type: ignore[assignment]
    return table


def upper_triangle(matrix: NDArray[Any]) -> NDArray[Any]:
    """The upper triangle of a matrix, shape (r, r), row by row: shape (r (r + 1) / 2,)."""
    return matrix[np.triu_indices(len(matrix))]


def symmetric_matrix(upper: NDArray[Any]) -> NDArray[Any]:
    """The symmetric matrix, shape (r, r), of an upper triangle, shape (r (r + 1) / 2,).

    Raises:
        ValueError: no matrix has an upper triangle of that size.
    """
    size = int((2 * len(upper)) ** 0.5)
    if size * (size + 1) // 2 != len(upper):
        raise ValueError(f"{len(upper)} numbers are not the upper triangle of a matrix")
    matrix = np.zeros((size, size), upper.dtype)
    matrix[np.triu_indices(size)] = upper
    return np.asarray(matrix + np.triu(matrix, 1).T)


def serialize(value: Any, table: ArrayTable) -> str:
    """A dataclass as JSON; its arrays are put into `table`."""
    return _adapter(type(value)).dump_json(value, context=table).decode()


def deserialize(kind: type[Value], text: str | bytes, table: ArrayTable) -> Value:
    """The dataclass that `serialize` wrote: no unknown fields, no conversions, no array left over.

    Args:
        kind: the dataclass.
        text: the JSON.
        table: the arrays; they are taken out of it.

    Raises:
        ValueError: text or arrays are nothing that `serialize` could have written; one line names
            the first field at fault.
    """
    try:
        value: Value = _adapter(kind).validate_json(
            text, strict=True, extra="forbid", context=table
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = printable(".".join(map(str, first["loc"])), 100)
        fault = printable(first["msg"].removeprefix("Value error, "), MAX_FAULT)
        raise ValueError(f"{where}: {fault}" if where else fault) from None
    if table.arrays:
        raise ValueError("there is an array that no field refers to")
    return value
