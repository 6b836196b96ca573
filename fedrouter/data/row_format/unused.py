"""Columns that are not used, first of all those that look like part of the prompt."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fedrouter.data.row_format.formats import FORMATS, Format
from fedrouter.data.row_format.values import is_empty, plain_text

CONVERSATION_COLUMNS = frozenset({"messages", "conversations"})
PROMPT_WORDS = CONVERSATION_COLUMNS | {"conversation", "dialogue", "dialog", "history", "system"}
PROMPT_WORDS |= {"instruction", "instructions", "prompt", "prompts", "question", "questions"}
PROMPT_WORDS |= {"query", "input", "inputs", "context", "contexts", "passage", "passages"}
PROMPT_WORDS |= {"document", "documents", "article", "background", "paragraph", "text", "texts"}
PROMPT_WORDS |= {"premise", "hypothesis", "sentence", "sentences", "options", "choices", "hint"}
PROMPT_WORDS |= {"evidence", "knowledge", "story", "schema", "table", "code", "tools", "functions"}
METADATA_WORDS = frozenset({"id", "ids", "type", "length", "len", "count", "tokens", "url", "hash"})
METADATA_WORDS |= {"lang", "language", "index", "idx", "name", "title", "source", "date", "score"}
SHOWN_COLUMNS = 8


class UnusedColumns:
    """Collects, row by row, the columns of a file that are not used and not always empty.

    Args:
        used: the columns that are used.
    """

    def __init__(self, used: Collection[str]) -> None:
        self._seen = set(used)
        self._prompt: dict[str, bool] = {}  # whether it holds texts, which an instruction can take
        self._other: list[str] = []

    def look(self, values: Mapping[str, Any]) -> None:
        """Look at a row."""
        if values.keys() <= self._seen:
            return
        for column in [column for column in values if column not in self._seen]:
            value = values[column]
            if is_empty(value):
                continue
            self._seen.add(column)
            if looks_like_prompt(column):
                parts = value if isinstance(value, list) else [value]
                self._prompt[column] = all(plain_text(part) is not None for part in parts)
            else:
                self._other.append(column)

    def notes(self, format: Format, setting: str, fields: Collection[str] | None) -> Iterator[str]:
        """A line for each column that looks like part of the prompt, and one for the others.

        Args:
            format: the format of the rows.
            setting: what a user sets to map a column; ``{}`` stands for the row's part.
            fields: the columns that a template names; None: no template.
        """
        for column, plain in self._prompt.items():
            key, name = _advice(column, plain, format, fields)
            advice = name if key is None else f"{_set(setting, key, column)} {name}"
            yield f"column {column!r} is not used; {advice}"
        if self._other:
            shown = ", ".join(map(repr, self._other[:SHOWN_COLUMNS]))
            more = len(self._other) - SHOWN_COLUMNS
            yield f"not used: {shown}" + (f" and {more} more columns" if more > 0 else "")


def looks_like_prompt(column: str) -> bool:
    """Whether a column's name has a word of `PROMPT_WORDS` and none of `METADATA_WORDS`."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)}
    return bool(words & PROMPT_WORDS) and not words & METADATA_WORDS


def _advice(
    column: str, plain: bool, format: Format, fields: Collection[str] | None
) -> tuple[str | None, str]:
    """What a user can do to use a column: the key to set, if it is one, and what that does."""
    if plain and "system" in column.lower():
        return "system", "makes it the system prompt"
    if plain and fields is not None:
        return None, f"to use it write {{{column}}} into the template"
    if plain and format.messages is None and format.input is None:
        return "input", "puts it after the instruction"
    if plain and format.messages is None:
        template = f'"{{instruction}} {{{format.input}}} {{{column}}}"'
        return None, f"to use it give the file as one of data.sources with the template {template}"
    if column in CONVERSATION_COLUMNS and format in FORMATS and fields is None:
        return "messages", "reads the rows from it instead"
    where = "the instruction" if format.messages is None else "the messages"
    return None, f"write into {where} what the model should see of it"


def _set(setting: str, part: str, column: str) -> str:
    return setting.replace("{}", part, 1).replace("NAME", column, 1)
