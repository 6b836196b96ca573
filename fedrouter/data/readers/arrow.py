"""Parquet and Arrow files, read batch by batch with pyarrow."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from fedrouter.data.readers.records import Record, first_line
from fedrouter.errors import DataError, MissingExtraError

BATCH_ROWS = 1024
IPC_FILE = b"ARROW1"  # the first bytes of an Arrow IPC file, also called Feather; streams lack them
NARROW_FLOATS: Mapping[str, Callable[[Any], Any]] = {
    "float": np.float32,
    "halffloat": np.float16,
}

_Convert = Callable[[Any], Any]


def read_parquet(name: str, file: BinaryIO) -> Iterator[Record]:
    """The rows of a Parquet file.

    Args:
        name: the file's name in error messages.
        file: its bytes.

    Raises:
        DataError: it is no valid Parquet file.
        MissingExtraError: without the extra ``data``.
    """
    return _read(name, file, "Parquet", _parquet_batches)


def read_arrow(name: str, file: BinaryIO) -> Iterator[Record]:
    """The rows of an Arrow IPC file (Feather) or stream; see `read_parquet`."""
    return _read(name, file, "Arrow", _arrow_batches)


def narrow_floats(schema: Any) -> dict[str, _Convert]:
    """For each column of float16 or float32, what makes numpy's type of pyarrow's Python floats.

    The text of a narrow float is the shortest that gives it back: 0.1, not 0.10000000149011612.

    Args:
        schema: the `pyarrow.Schema`.
    """
    types = {field.name: str(_value_type(field.type)) for field in schema}
    return {
        column: _or_none(NARROW_FLOATS[type])
        for column, type in types.items()
        if type in NARROW_FLOATS
    }


def converted(values: dict[str, Any], converts: Mapping[str, _Convert]) -> dict[str, Any]:
    """A row's values with `narrow_floats` applied to them."""
    for column, convert in converts.items():
        values[column] = convert(values[column])
    return values


def _read(
    name: str,
    file: BinaryIO,
    layout: str,
    batches: Callable[[BinaryIO], Iterable[Any]],
) -> Iterator[Record]:
    try:
        import pyarrow.lib
    except ImportError as error:
        raise MissingExtraError(f"Reading {name}", "data") from error
    if not file.peek(1):  # type: ignore[attr-defined]
        return
    number = 0
    try:
        for batch in batches(file):
            if len(set(batch.schema.names)) < len(batch.schema):
                raise DataError(f"{name}: two columns have the same name; rename one")
            converts = narrow_floats(batch.schema)
            for values in batch.to_pylist():
                number += 1
                yield Record(f"{name}: row {number}", converted(values, converts))
    except pyarrow.lib.ArrowException as error:
        raise DataError(f"{name} is not a valid {layout} file: {first_line(error)}") from error


def _parquet_batches(file: BinaryIO) -> Iterable[Any]:
    import pyarrow.parquet

    batches: Iterable[Any] = pyarrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS)
    return batches


def _arrow_batches(file: BinaryIO) -> Iterator[Any]:
    import pyarrow.ipc

    if file.peek(len(IPC_FILE)).startswith(IPC_FILE):  # type: ignore[attr-defined]
        reader = pyarrow.ipc.open_file(file)
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    return iter(pyarrow.ipc.open_stream(file))


def _value_type(type: Any) -> Any:
    """The type of the values in a list or a dictionary, else the type itself."""
    while (inner := getattr(type, "value_type", None)) is not None:
        type = inner
    return type


def _or_none(convert: _Convert) -> _Convert:
    """`convert` on a value or on each of a list; None stays."""

    def apply(value: Any) -> Any:
        if isinstance(value, list):
            return [apply(one) for one in value]
        return None if value is None else convert(value)

    return apply
