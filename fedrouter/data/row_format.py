"""Records -> rows: which columns hold a row's parts, and what they may hold."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from string import Formatter
from typing import Any

from fedrouter.config import Columns
from fedrouter.data.readers import Record, kind
from fedrouter.data.rows import Row
from fedrouter.errors import ConfigError, DataError

SHOWN_COLUMNS = 8
Pieces = list[tuple[str, str | None]]  # of a template: literal text, and the field after it


@dataclass(frozen=True)
class RowFormat:
    """How rows are read off records.

    Attributes:
        columns: the columns of instruction, response and task. Rows may lack the task's column
            unless it was given a name of its own.
        template: a text with ``{column}`` fields that makes the instruction, in which
            ``{instruction}`` is `columns.instruction`; None: that column as it is.
        task: the task of all rows; None: the task's column.
        labels: what each value of the response's column stands for; None: itself.
        skip_empty: leave out records that lack a value, instead of refusing them.
        group: column of `Row.group`; None: rows have none.
        setting: what a user sets to map a column; ``{}`` stands for the row's part.
    """

    columns: Columns
    template: str | None = None
    task: str | None = None
    labels: Mapping[str, str] | None = None
    skip_empty: bool = False
    group: str | None = None
    setting: str = "--set data.columns.{}=NAME"

    def rows(self, records: Iterable[Record]) -> list[Row]:
        """The rows of all records, in order.

        Raises:
            ConfigError: the template has a field that is not a plain column name.
            DataError: a record lacks a part or holds an unfit value; the place is named.
        """
        template = None if self.template is None else parse_template(self.template)
        rows: list[Row] = []
        for record in records:
            if self.skip_empty and self._lacks_a_value(record, template):
                continue
            row = Row(
                self._instruction(record, template),
                self._response(record),
                self._task(record),
                None if self.group is None else _text(record, self.group, "data.split_column"),
            )
            if rows and (row.task is None) != (rows[0].task is None):
                found = "no task" if row.task is None else "a task"
                raise DataError(
                    f"{record.place}: {found}, unlike the rows before it; "
                    "name the task of every row or of none"
                )
            rows.append(row)
        return rows

    def _instruction(self, record: Record, template: Pieces | None) -> str:
        if template is None:
            return self._filled(record, "instruction", numbers=False)
        text = "".join(literal + self._field(record, field) for literal, field in template)
        return _not_blank(record, text, "the instruction that the template makes")

    def _field(self, record: Record, field: str | None) -> str:
        if field is None:
            return ""
        column = self._column(field)
        value = record.values.get(column)
        if isinstance(value, list):
            parts = [Record(record.place, {column: part}) for part in value]
            return ", ".join(_text(part, column, "the template") for part in parts)
        return _text(record, column, "the template")

    def _column(self, field: str) -> str:
        """The column that a field of the template names."""
        return self.columns.instruction if field == "instruction" else field

    def _lacks_a_value(self, record: Record, template: Pieces | None) -> bool:
        """Whether a column that is there, and used, holds nothing."""
        if template is None:
            columns = [self.columns.instruction]
        else:
            columns = [self._column(field) for _, field in template if field is not None]
        names = [name for name in (*columns, self.columns.response) if name in record.values]
        values = [record.values[name] for name in names]
        return any(value is None or value == [] or not str(value).strip() for value in values)

    def _response(self, record: Record) -> str:
        text = self._filled(record, "response", numbers=True)
        if self.labels is None:
            return text
        if text not in self.labels:
            raise DataError(
                f"{record.place}: {self.columns.response!r} is {text!r}, for which the source's "
                f"labels ({', '.join(self.labels)}) say nothing; add it there"
            )
        return self.labels[text]

    def _filled(self, record: Record, part: str, *, numbers: bool) -> str:
        column = getattr(self.columns, part)
        text = _text(record, column, self.setting.format(part), numbers=numbers)
        return _not_blank(record, text, repr(column))

    def _task(self, record: Record) -> str | None:
        if self.task is not None:
            return self.task
        column = self.columns.task
        optional = column == Columns().task
        if record.values.get(column) is None and (optional or column in record.values):
            return None
        return _text(record, column, self.setting.format("task")).strip() or None


def parse_template(template: str) -> Pieces:
    """A template as pieces: a literal text and the field that follows it, if any.

    Only plain ``{column}`` fields: nothing of a value but its text can be reached.

    Raises:
        ConfigError: another kind of field, none at all, or an unpaired brace.
    """
    at = f"data.sources template {template!r}"
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{at}: {error}; write {{{{ for a brace") from error
    for _, field, format_spec, conversion in pieces:
        if field is not None and (
            not field or set(field) & set(".[]{}") or format_spec or conversion
        ):
            raise ConfigError(
                f"{at}: {field!r} is not a plain column name; fields are {{column}}, nothing more"
            )
    if all(field is None for _, field, _, _ in pieces):
        raise ConfigError(f"{at} names no column; write one as {{column}}")
    return [(literal, field) for literal, field, _, _ in pieces]


def _text(record: Record, column: str, setting: str, *, numbers: bool = True) -> str:
    """The value of a column as text; `numbers` are taken too."""
    if column not in record.values:
        raise DataError(f"{record.place}: no column {column!r}; {_others(record, column, setting)}")
    value = record.values[column]
    if numbers and _is_number(value):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(
            f"{record.place}: {column!r} is {kind(value)}, not a text; "
            f"mend or remove the row, or name another column with {setting}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{record.place}: {column!r} holds half a character (an unpaired surrogate, "
            f"{value[error.start]!a}); mend or remove the row"
        ) from error
    return value


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _not_blank(record: Record, text: str, what: str) -> str:
    if not text.strip():
        raise DataError(f"{record.place}: {what} is empty; fill it in or remove the row")
    return text


def _others(record: Record, column: str, setting: str) -> str:
    names = list(record.values)
    near = get_close_matches(column, names, n=1)
    if near:
        return f"the nearest is {near[0]!r}; name the right one with {setting}"
    shown = ", ".join(map(repr, names[:SHOWN_COLUMNS])) + ", ..." * (len(names) > SHOWN_COLUMNS)
    return f"it has {shown or 'none'}; name the right one with {setting}"
