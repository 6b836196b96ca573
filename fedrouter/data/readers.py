"""Data files -> records, each with the place that an error about it names."""

import csv
import gzip
import io
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fedrouter.errors import DataError, MissingExtraError


@dataclass(frozen=True, slots=True)
class Record:
    """One object of a data file.

    Attributes:
        place: where it is, such as ``train.jsonl:17``.
        values: its columns.
    """

    place: str
    values: Mapping[str, Any]


def read_records(path: Path) -> Iterator[Record]:
    """The records of a .jsonl, .jsonl.gz, .json (a list of objects), .csv or .parquet file.

    Raises:
        DataError: the file is missing, empty, a folder, of another kind or damaged.
        MissingExtraError: a Parquet file without the extra ``data``.
    """
    empty = True
    try:
        for record in _reader(path)(path):
            empty = False
            yield record
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}") from error
    if empty:
        raise DataError(f"{path} is empty; give a file with at least one row")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


def _reader(path: Path) -> Callable[[Path], Iterator[Record]]:
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it")
    path.stat()  # a missing file is missing, whatever its extension
    suffixes = [suffix.lower() for suffix in path.suffixes]
    extension = ".jsonl.gz" if suffixes[-2:] == [".jsonl", ".gz"] else path.suffix.lower()
    if extension not in READERS:
        raise DataError(f"{path}: unknown kind of data file; use {', '.join(READERS)}")
    return READERS[extension]


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        yield from _json_lines(path, file)


def _read_jsonl_gz(path: Path) -> Iterator[Record]:
    with gzip.open(path, "rb") as file:
        yield from _json_lines(path, file)


def _json_lines(path: Path, file: Iterable[bytes]) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        text = _decode(path, line, first_line=number).rstrip()
        if text:
            place = f"{path}:{number}"
            yield Record(place, _object(place, _parse_json(path, text, first_line=number)))


def _read_json(path: Path) -> Iterator[Record]:
    text = _decode(path, path.read_bytes())
    items = _parse_json(path, text) if text.strip() else []
    if not isinstance(items, list):
        raise DataError(
            f"{path} holds {kind(items)}, not a list of objects; put the rows in [ ], "
            "or one object on each line of a .jsonl file"
        )
    for number, item in enumerate(items, start=1):
        place = f"{path}: item {number}"
        yield Record(place, _object(place, item))


def _read_csv(path: Path) -> Iterator[Record]:
    text = _decode(path, path.read_bytes())
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # no field is too long
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = next(rows, [])
        _check_header(path, header)
        line = rows.line_num + 1
        for values in rows:
            place, line = f"{path}:{line}", rows.line_num + 1
            if len(values) > len(header):
                raise DataError(
                    f"{place}: {len(values)} values under a header of {len(header)} columns; "
                    'put values with commas in "quotes"'
                )
            if values:
                yield Record(place, dict(zip_longest(header, values, fillvalue="")))
    except csv.Error as error:
        raise DataError(f"{path}:{line}: invalid CSV ({error}); mend its quotes") from error


def _check_header(path: Path, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{path}:1: {count} columns are named {name!r}; rename all but one")


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"Reading {path}", "data") from error
    if path.stat().st_size == 0:
        return
    try:
        items = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    except pyarrow.lib.ArrowException as error:
        raise DataError(f"{path} is not a valid Parquet file: {_first_line(error)}") from error
    for number, values in enumerate(items, start=1):
        yield Record(f"{path}: row {number}", values)


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl_gz,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _decode(path: Path, data: bytes, first_line: int = 1) -> str:
    try:
        return data.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from error


def _parse_json(path: Path, text: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}:{first_line + error.lineno - 1}"
        raise DataError(
            f"{place}: invalid JSON ({error.msg} at column {error.colno}); mend or remove the line"
        ) from error
    except (ValueError, RecursionError) as error:  # an endless number, endless brackets
        raise DataError(f"{path}:{first_line}: invalid JSON ({_first_line(error)})") from error


def _object(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f'{place}: {kind(value)}, not an object such as {{"instruction": ..., "response": ...}}'
        )
    return value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
