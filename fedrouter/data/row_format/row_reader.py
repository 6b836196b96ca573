"""One record -> its rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fedrouter.config import Columns
from fedrouter.data.readers import Record
from fedrouter.data.row_format.chat import (
    check_order,
    instruction_of,
    is_conversation,
    parse_messages,
)
from fedrouter.data.row_format.formats import Format
from fedrouter.data.row_format.templates import Pieces
from fedrouter.data.row_format.values import is_empty, joined_text, not_blank, text_of
from fedrouter.data.rows import Message, Row
from fedrouter.errors import DataError

INPUT_BREAK = "\n\n"  # between instruction and input


@dataclass(frozen=True)
class RowSettings:
    """How rows are read off records.

    Attributes:
        columns: the columns that the user named. Rows may lack the task's column unless it was
            given a name of its own.
        template: a text with ``{column}`` fields that makes the instruction, in which
            ``{instruction}`` is the column of the instruction; None: that column as it is.
        task: the task of all rows; None: the task's column.
        labels: what each value of the response's column stands for; None: itself.
        skip_empty: leave out records that lack a value, instead of refusing them.
        group: column of `Row.group`; None: rows have none.
        turns: of a conversation, which answers are samples: the last one, or all.
        setting: what a user sets to map a column; ``{}`` stands for the row's part.
    """

    columns: Columns
    template: str | None = None
    task: str | None = None
    labels: Mapping[str, str] | None = None
    skip_empty: bool = False
    group: str | None = None
    turns: Literal["last", "all"] = "last"
    setting: str = "--set data.columns.{}=NAME"


class RowReader:
    """Reads the rows of one format.

    Args:
        settings: what the user set.
        format: the format of the records.
        pieces: the template's, if there is one.
    """

    def __init__(self, settings: RowSettings, format: Format, pieces: Pieces | None) -> None:
        self.format = format
        self._settings = settings
        self._pieces = pieces
        self._keys = {
            part: settings.setting.replace("{}", part, 1) for part in Columns.model_fields
        }

    @cached_property
    def used(self) -> list[str]:
        """The columns that a row is read from."""
        settings = self._settings
        columns = [*self._prompt_columns, settings.columns.system, self.format.input]
        columns += [settings.group, settings.columns.task if settings.task is None else None]
        if self.format.messages is None:
            columns.append(self.format.response)
        return [column for column in columns if column is not None]

    def rows(self, record: Record) -> list[Row]:
        """The rows of a record: one, or one for each answer of a conversation."""
        if self._plain and (row := self._plain_row(record.values)) is not None:
            return [row]
        if self.format.messages is not None or self._is_conversation(record):
            return list(self._samples(record))
        instruction = self._instruction(record)
        response = self._label(record, self._response(record))
        messages: tuple[Message, ...] = ()
        if system := self._system(record):
            messages = (*system, Message("user", instruction))
        return [Row(instruction, response, self._task(record), self._group(record), messages)]

    @cached_property
    def _plain(self) -> bool:
        """Whether rows are made of the columns of instruction, response and task alone."""
        settings, format = self._settings, self.format
        added = (self._pieces, settings.task, settings.labels, settings.group, format.messages)
        return all(one is None for one in (*added, format.input, settings.columns.system))

    def _plain_row(self, values: Mapping[str, Any]) -> Row | None:
        """The row of two ASCII texts, which need no more checks; None for all other records.

        It takes half of the time that the general way takes (`bench/reading.py`).
        """
        instruction, response = (
            values.get(self.format.instruction),
            values.get(self.format.response),
        )
        column = self._settings.columns.task
        task = values.get(column, "" if column == "task" else None)
        if not (type(instruction) is type(response) is type(task) is str):
            return None
        if not (instruction.isascii() and response.isascii() and task.isascii()):
            return None
        if instruction.isspace() or response.isspace() or not (instruction and response):
            return None
        return Row(instruction, response, task.strip() or None)

    def lacks_a_value(self, record: Record) -> bool:
        """Whether a column that is there, and used, holds nothing."""
        columns = [*self._prompt_columns]
        if self.format.messages is None:
            columns.append(self.format.response)
        values = [record.values[name] for name in columns if name in record.values]
        return any(is_empty(value) for value in values)

    @cached_property
    def _prompt_columns(self) -> list[str]:
        if self.format.messages is not None:
            return [self.format.messages]
        if self._pieces is None:
            return [self.format.instruction]
        return [self._column(field) for _, field in self._pieces if field is not None]

    def _is_conversation(self, record: Record) -> bool:
        """Whether prompt or response is a list of messages."""
        values, format = record.values, self.format
        return is_conversation(values.get(format.response)) or (
            self._pieces is None and is_conversation(values.get(format.instruction))
        )

    def _samples(self, record: Record) -> Iterator[Row]:
        """A row for each answer that is a sample, with the turns before it."""
        turns, first = self._turns(record)
        system = self._system(record)
        turns, first = [*system, *turns], len(system) + first
        check_order(record.place, turns)
        answers = [i for i in range(first, len(turns)) if turns[i].role == "assistant"]
        if self._settings.turns == "last":
            answers = answers[-1:]
        task, group = self._task(record), self._group(record)
        for i in answers:
            before = [turn for turn in turns[:i] if turn.content]  # a system prompt may be empty
            yield Row(
                instruction_of(before),
                self._label(record, turns[i].content),
                task,
                group,
                tuple(before) if len(before) > 1 else (),
                record.place if len(answers) > 1 else None,
            )

    def _turns(self, record: Record) -> tuple[list[Message], int]:
        """A conversation's messages, and the number of those that are no samples of their own."""
        values, format = record.values, self.format
        if format.messages is not None:
            setting = self._keys["messages"]
            if format.messages not in values:
                text_of(record, format.messages, setting)  # says which columns there are
            return parse_messages(record.place, format.messages, values[format.messages]), 0
        if format.input is not None and not is_empty(values.get(format.input)):
            raise DataError(
                f"{record.place}: {format.input!r} cannot follow a list of messages; "
                "write it into the messages"
            )
        prompt, answer = values.get(format.instruction), values.get(format.response)
        if self._pieces is None and is_conversation(prompt):
            turns = parse_messages(record.place, format.instruction, prompt)
        else:
            turns = [Message("user", self._instruction(record))]
        first = len(turns)
        if is_conversation(answer):
            turns += parse_messages(record.place, format.response, answer)
        else:
            turns.append(Message("assistant", self._response(record)))
        return turns, first

    def _instruction(self, record: Record) -> str:
        if self._pieces is not None:
            text = "".join(literal + self._field(record, field) for literal, field in self._pieces)
            return not_blank(record.place, text)
        column = self.format.instruction
        text = text_of(record, column, self._keys["instruction"], texts_only=True)
        text = not_blank(record.place, text, column)
        if self.format.input is None:
            return text
        added = self._optional(record, "input", self.format.input)
        return f"{text}{INPUT_BREAK}{added}" if added else text

    def _field(self, record: Record, field: str | None) -> str:
        return "" if field is None else joined_text(record, self._column(field), "the template")

    def _column(self, field: str) -> str:
        """The column that a field of the template names."""
        return self.format.instruction if field == "instruction" else field

    def _system(self, record: Record) -> Sequence[Message]:
        """The system prompt that a column of its own holds."""
        column = self._settings.columns.system
        text = "" if column is None else self._optional(record, "system", column)
        return [Message("system", text)] if text else []

    def _optional(self, record: Record, part: str, column: str) -> str:
        """The text of a column that may be empty. A column that the user named must be there."""
        named = getattr(self._settings.columns, part) is not None
        if is_empty(record.values.get(column)) and (column in record.values or not named):
            return ""
        return joined_text(record, column, self._keys[part])

    def _response(self, record: Record) -> str:
        column = self.format.response
        text = text_of(record, column, self._keys["response"])
        return not_blank(record.place, text, column)

    def _label(self, record: Record, text: str) -> str:
        labels = self._settings.labels
        if labels is None:
            return text
        if text not in labels:
            column = self.format.messages or self.format.response
            raise DataError(
                f"{record.place}: {column!r} is {text!r}, for which the source's "
                f"labels ({', '.join(labels)}) say nothing; add it there"
            )
        return labels[text]

    def _task(self, record: Record) -> str | None:
        if self._settings.task is not None:
            return self._settings.task
        column = self._settings.columns.task
        optional = column == "task"
        if record.values.get(column) is None and (optional or column in record.values):
            return None
        return text_of(record, column, self._keys["task"]).strip() or None

    def _group(self, record: Record) -> str | None:
        column = self._settings.group
        return None if column is None else text_of(record, column, "data.split_column")
