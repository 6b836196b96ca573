"""One object of a data file, and how its bytes become text."""

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from fedrouter.errors import DataError

BOM = "\ufeff"


class Record(NamedTuple):
    """One object of a data file.

    Attributes:
        place: where it is, such as ``train.jsonl:17``.
        values: its columns.
    """

    place: str
    values: Mapping[str, Any]


def kind(value: Any) -> str:
    """The type of a JSON or Arrow value, in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    names |= {bytes: "binary data", timedelta: "a duration"}
    return names.get(type(value), f"a {type(value).__name__}")


def decoded_lines(name: str, file: Iterable[bytes]) -> Iterator[str]:
    """The lines of a UTF-8 file with their line breaks.

    A byte order mark at the start of a line is left out: it stands there where files that began
    with one were joined.

    Raises:
        DataError: a line is not UTF-8.
    """
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}:{number}: not UTF-8 (byte 0x{line[error.start]:02x}); "
                "save the file as UTF-8"
            ) from error
        yield text.removeprefix(BOM)


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return next(iter(str(error).splitlines()), type(error).__name__)
