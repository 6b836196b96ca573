"""The text of a value."""

import math
from datetime import date, time
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

import numpy as np

from fedrouter.data.readers.records import Record, kind
from fedrouter.errors import DataError

SHOWN_COLUMNS = 8


def text_of(record: Record, column: str, setting: str, *, texts_only: bool = False) -> str:
    """The value of a column as text.

    Booleans become "true" and "false", dates and times ISO 8601, decimals their digits, other
    numbers the shortest text that gives the same number in its type.

    Args:
        record: the row.
        column: the column's name.
        setting: what a user sets to name another column.
        texts_only: refuse everything but a text.

    Raises:
        DataError: there is no such column, or it holds something else or half a character.
    """
    try:
        value = record.values[column]
    except KeyError as error:
        hint = _other_columns(record, column, setting)
        raise DataError(f"{record.place}: no column {column!r}; {hint}") from error
    if type(value) is not str:
        text = None if texts_only and not isinstance(value, str) else plain_text(value)
        if text is None:
            raise DataError(
                f"{record.place}: {column!r} is {kind(value)}, not a text; "
                f"mend or remove the row, or name another column with {setting}"
            )
        value = text
    return value if value.isascii() else whole_characters(record.place, column, value)


def joined_text(record: Record, column: str, setting: str) -> str:
    """As `text_of`; the texts of a list are joined with ", "."""
    value = record.values.get(column)
    if isinstance(value, list):
        parts = [Record(record.place, {column: part}) for part in value]
        return ", ".join(text_of(part, column, setting) for part in parts)
    return text_of(record, column, setting)


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: None, an empty list, a blank text."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def not_blank(place: str, text: str, column: str | None = None) -> str:
    """The text, if it is not blank.

    Args:
        place: where the row is.
        text: the text.
        column: the column that holds it; None: the instruction that a template makes.

    Raises:
        DataError: it is blank.
    """
    if not text or text.isspace():
        what = "the instruction that the template makes" if column is None else repr(column)
        raise DataError(f"{place}: {what} is empty; fill it in or remove the row")
    return text


def plain_text(value: Any) -> str | None:
    """The text of a text, number, boolean, date or time; None for other values."""
    text: str | None = None
    match value:
        case bool():
            text = "true" if value else "false"
        case str() | int():
            text = str(value)
        case float() if math.isfinite(value):
            text = str(value)
        case np.floating() if math.isfinite(value):
            text = str(float(str(value)))  # its digits, with an exponent where Python writes one
        case Decimal() if value.is_finite():
            text = format(value, "f")
        case date() | time():  # a datetime is a date
            text = value.isoformat()
    return text


def whole_characters(place: str, column: str, text: str) -> str:
    """The text of a column.

    Raises:
        DataError: it holds a surrogate without its other half, which UTF-8 cannot store.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: {column!r} holds half a character (an unpaired surrogate, "
            f"{text[error.start]!a}); mend or remove the row"
        ) from error
    return text


def _other_columns(record: Record, column: str, setting: str) -> str:
    names = list(record.values)
    near = get_close_matches(column, names, n=1)
    if near:
        return f"the nearest is {near[0]!r}; name the right one with {setting}"
    shown = ", ".join(map(repr, names[:SHOWN_COLUMNS])) + ", ..." * (len(names) > SHOWN_COLUMNS)
    return f"it has {shown or 'none'}; name the right one with {setting}"
