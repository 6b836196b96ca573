"""The formats of rows that are recognized by their columns."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from fedrouter.config import Columns


@dataclass(frozen=True)
class Format:
    """A format of rows: the columns that hold a row's parts.

    Attributes:
        name: what to call it.
        instruction: column of the instruction; of the prompt's messages, if it holds a list.
        response: column of the response; of the answer's messages, if it holds a list.
        input: column that follows the instruction where it is not empty; rows may lack it.
        messages: column of the whole conversation, instead of the others.
    """

    name: str
    instruction: str = "instruction"
    response: str = "response"
    input: str | None = None
    messages: str | None = None


FORMATS = (
    Format("instruction and response"),
    Format("Alpaca instruction, input and output", response="output", input="input"),
    Format("chat messages", messages="messages"),
    Format("ShareGPT conversations", messages="conversations"),
    Format("prompt and completion", "prompt", "completion"),
    Format("question and answer", "question", "answer"),
)


def recognize(
    present: Collection[str], columns: Columns, fields: Collection[str] | None = None
) -> Format:
    """The first of `FORMATS` whose columns a row has, with the columns that the user named.

    A format that has the named columns by itself comes before one in which they replace others.
    Where no format fits it is the first, so that an error names the columns that are missing.

    Args:
        present: the row's columns.
        columns: the configured ones; those that equal the defaults count as not named.
        fields: the columns that a template names, which makes the instruction; None: no template.
    """
    if columns.messages is not None:
        return Format(f"chat messages in {columns.messages!r}", messages=columns.messages)
    named = _named(columns)
    if not named and fields is None:
        candidates = list(FORMATS)
    else:  # which parts are texts is settled
        candidates = [_merged(one, named, fields) for one in FORMATS if one.messages is None]
    fitting = [one for one in candidates if _needed(one, fields) <= set(present)]
    return next((one for one in fitting if one in FORMATS), (fitting or candidates)[0])


def _named(columns: Columns) -> dict[str, str]:
    """The parts of a row for which the user named a column."""
    default = Columns()
    parts = ("instruction", "input", "response")
    return {
        part: getattr(columns, part)
        for part in parts
        if getattr(columns, part) != getattr(default, part)
    }


def _needed(format: Format, fields: Collection[str] | None) -> set[str]:
    """The columns that rows of a format must have."""
    if format.messages is not None:
        return {format.messages}
    if fields is None or "instruction" in fields:
        return {format.instruction, format.response}
    return {format.response}


def _merged(format: Format, named: dict[str, str], fields: Collection[str] | None) -> Format:
    """A format with the columns that the user named in place of its own."""
    merged = replace(format, **named)
    if fields is not None:
        return replace(merged, name=f"template and {merged.response!r}", input=None)
    if merged.input in (merged.instruction, merged.response):
        merged = replace(merged, input=None)
    if merged == format:
        return format
    prompt = ", ".join(map(repr, filter(None, (merged.instruction, merged.input))))
    return replace(merged, name=f"columns {prompt} and {merged.response!r}")
