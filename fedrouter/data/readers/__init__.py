"""Data files -> records, each with the place that an error about it names."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fedrouter.data.readers.files import KINDS, READERS, data_files, extension
from fedrouter.data.readers.records import Record, first_line
from fedrouter.errors import DataError

__all__ = ["Record", "data_files", "read_records"]


def read_records(path: Path) -> Iterator[Record]:
    """The records of a JSON, JSONL, CSV, TSV, Parquet or Arrow file, also one ending in .gz.

    Raises:
        DataError: the file is missing, empty, a folder, of another kind or damaged.
        MissingExtraError: a Parquet or Arrow file without the extra ``data``.
    """
    try:
        read, compressed = _reader(path)
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            records = read(str(path), file)  # type: ignore[arg-type]
            first = next(records, None)
            if first is None:
                raise DataError(f"{path} is empty; give a file with at least one row")
            yield first
            yield from records
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{path} cannot be read: {reason}") from error


def _reader(path: Path) -> tuple[Callable[[str, BinaryIO], Iterator[Record]], bool]:
    """What reads a file, and whether it is compressed."""
    path.stat()  # a missing file is missing, whatever its extension
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it")
    name, compressed = extension(path)
    if name not in READERS:
        raise DataError(f"{path}: unknown kind of data file; use {KINDS}")
    return READERS[name], compressed
