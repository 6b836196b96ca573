"""JSON files: one object a line, a list of objects, or objects one after the other."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, BinaryIO

from fedrouter.data.readers.records import BOM, Record, decoded_lines, first_line, kind
from fedrouter.errors import DataError

_DECODER = json.JSONDecoder()
_BLANKS = re.compile(rf"[\s{BOM}]*")


def read_json(name: str, file: BinaryIO) -> Iterator[Record]:
    """The objects of a JSON file; the content says which layout it has, not the extension.

    Objects on a line each are read one by one. A list, or objects that go on over several lines,
    are read as a whole.

    Args:
        name: the file's name in error messages.
        file: its bytes.

    Raises:
        DataError: text that is not UTF-8 or not JSON, or a value that is not an object.
    """
    lines = decoded_lines(name, file)
    blank = ""
    for line in lines:
        if not line.strip():
            blank += "\n"
            continue
        if _is_complete(line):
            return _read_lines(name, chain([line], lines), blank.count("\n") + 1)
        return _read_whole(name, blank + line + "".join(lines))
    return iter(())


def read_json_document(name: str, file: BinaryIO) -> Iterator[Record]:
    """As `read_json`, of a .json file: one object alone is refused, for it is seldom a row."""
    records = read_json(name, file)
    first, second = next(records, None), next(records, None)
    if first is not None and second is None and not first.place.startswith(f"{name}: item"):
        raise DataError(
            f"{name} holds an object, not a list of objects; put the rows in [ ], "
            "or one object on each line"
        )
    return chain([record for record in (first, second) if record is not None], records)


def _is_complete(line: str) -> bool:
    """Whether the first line is a whole JSON value, or one that is broken before its end."""
    text = line.rstrip()
    if text.startswith("["):
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos < len(text) and not error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        return True
    return True


def _read_lines(name: str, lines: Iterable[str], first: int) -> Iterator[Record]:
    raw_decode = _DECODER.raw_decode  # a third faster than decode, which looks for blanks
    for number, line in enumerate(lines, start=first):
        text = line.strip()
        if not text:
            continue
        try:
            value, end = raw_decode(text)
        except (ValueError, RecursionError) as error:
            raise _invalid(name, number, error) from error
        if end < len(text):  # files that were joined, the first without a line end
            yield from _read_whole(name, text, number)
            continue
        place = f"{name}:{number}"
        yield Record(place, value if type(value) is dict else _object(place, value))


def _read_whole(name: str, text: str, first: int = 1) -> Iterator[Record]:
    """Objects and lists of objects, one after the other, each on as many lines as it takes."""
    at, line, number = 0, first, 0
    while (start := _skip_blanks(text, at)) < len(text):
        line += text.count("\n", at, start)
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise _invalid(name, first, error) from error
        if isinstance(value, list):
            for item in value:
                number += 1
                place = f"{name}: item {number}"
                yield Record(place, _object(place, item))
        else:
            place = f"{name}:{line}"
            yield Record(place, _object(place, value))
        line += text.count("\n", start, at)


def _skip_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    assert match is not None, "also no blank matches"
    return match.end()


def _invalid(name: str, line: int, error: Exception) -> DataError:
    """What to say of text that is not JSON and begins at `line`."""
    if isinstance(error, json.JSONDecodeError):
        place = f"{name}:{line + error.lineno - 1}"
        fault = f"{error.msg} at column {error.colno}"
        return DataError(f"{place}: invalid JSON ({fault}); mend or remove the line")
    # A number or brackets without end.
    return DataError(f"{name}:{line}: invalid JSON ({first_line(error)}); mend or remove the line")


def _object(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f'{place}: {kind(value)}, not an object such as {{"instruction": ..., "response": ...}}'
        )
    return value
