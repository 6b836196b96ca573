"""CSV files with any common separator."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice, zip_longest
from typing import BinaryIO

from fedrouter.data.readers.records import Record, decoded_lines
from fedrouter.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
SAMPLED_LINES = 200
LONGEST_FIELD = 2**31 - 1  # what a C long holds on every system


def read_csv(name: str, file: BinaryIO) -> Iterator[Record]:
    """The rows under the header of a file whose values a comma, semicolon, tab or | separates.

    A row that is shorter than the header lacks its last values, which become "".

    Args:
        name: the file's name in error messages.
        file: its bytes.

    Raises:
        DataError: text that is not UTF-8, broken quotes, a header of one column or with a name
            twice, a row longer than the header.
    """
    csv.field_size_limit(LONGEST_FIELD)
    lines = _lines(name, file)
    head = list(islice(lines, SAMPLED_LINES))
    skipped, separator = _declared(head)
    separator = separator or find_separator(head)
    rows = csv.reader(chain(head[skipped:], lines), delimiter=separator, strict=True)
    line = skipped + 1
    try:
        names = next(rows, [])
        header = [column.strip() for column in names]
        _check_header(f"{name}:{line}", header)
        line = skipped + rows.line_num + 1
        for values in rows:
            place, line = f"{name}:{line}", skipped + rows.line_num + 1
            if len(values) > len(header) or values == names:
                raise _unfit(place, values, header, separator)
            if values:
                yield Record(place, dict(zip_longest(header, values, fillvalue="")))
    except csv.Error as error:
        raise DataError(f"{name}:{line}: invalid CSV ({error}); mend its quotes") from error


def find_separator(lines: Sequence[str]) -> str:
    """The separator of a CSV file, by its first lines.

    One that splits the header; of several, the one with the largest share of rows as long as the
    header; of these, the first of `SEPARATORS`. A comma where none splits the header.
    """
    found = {separator: _consistency(lines, separator) for separator in SEPARATORS}
    return max(SEPARATORS, key=lambda separator: found[separator])


def _consistency(lines: Sequence[str], separator: str) -> float:
    """The share of rows as long as the header, plus 1; 0 where the header is one column."""
    rows = csv.reader(lines, delimiter=separator, strict=True)
    lengths: list[int] = []
    with suppress(csv.Error):  # quotes that another separator explains, or a last row cut off
        lengths.extend(len(row) for row in rows if row)
    if not lengths or lengths[0] < 2:
        return 0.0
    return 1 + sum(length == lengths[0] for length in lengths) / len(lengths)


def _declared(head: Sequence[str]) -> tuple[int, str | None]:
    """The lines to skip, and the separator that a first line ``sep=;`` names, as Excel writes."""
    first = head[0].rstrip("\r\n") if head else ""
    if len(first) == 5 and first.lower().startswith("sep="):
        return 1, first[4]
    return 0, None


def _lines(name: str, file: Iterable[bytes]) -> Iterator[str]:
    """Lines that end in \\n, \\r\\n or \\r, with their ends."""
    for text in decoded_lines(name, file):
        if "\r" in text[:-2]:
            yield from io.StringIO(text, newline="")
        else:
            yield text


def _check_header(place: str, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{place}: {count} columns are named {name!r}; rename all but one")
    if len(names) == 1:
        raise DataError(
            f"{place}: the header is the one column {names[0]!r}; separate the columns "
            "by a comma, a semicolon, a tab or |"
        )


def _unfit(place: str, values: Sequence[str], header: Sequence[str], separator: str) -> DataError:
    if len(values) == len(header):
        return DataError(f"{place}: the header once more, as in joined files; remove the line")
    marks = {",": "commas", ";": "semicolons", "\t": "tabs"}.get(separator, repr(separator))
    return DataError(
        f"{place}: {len(values)} values under a header of {len(header)} columns; "
        f'put values with {marks} in "quotes"'
    )
