"""Conversations -> samples: roles and contents of messages, their order, and which are answers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fedrouter.data.readers.records import kind
from fedrouter.data.row_format.values import whole_characters
from fedrouter.data.rows import Message
from fedrouter.errors import DataError

_Role = Literal["system", "user", "assistant"]

ROLES: dict[str, _Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
OWNERS = {"system": "a system prompt", "user": "the user's", "assistant": "the assistant's"}
TOOL_WORDS = ("tool", "function", "observation", "ipython")
TURNS_BREAK = "\n\n"  # between the user's turns in an instruction


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, as against a text or a list of texts."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def parse_messages(place: str, column: str, value: Any) -> list[Message]:
    """The messages in a column: a list of objects with role and content, or from and value.

    The list may be written as a JSON text, the only way in a CSV file. Only a system prompt may be
    empty; its content is "" then.

    Args:
        place: where the row is.
        column: the column's name.
        value: what it holds.

    Raises:
        DataError: it is no such list, a role is unknown or a tool's, or a content is empty or not
            a text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{place}: {column!r} is a text that is no JSON list ({error}); "
                "mend or remove the row"
            ) from error
    if not isinstance(value, list):
        raise DataError(
            f"{place}: {column!r} is {kind(value)}, not a list of messages such as "
            '{"role": "user", "content": "..."}; mend or remove the row'
        )
    return [
        _message(f"{place}: message {number} of {column!r}", item)
        for number, item in enumerate(value, start=1)
    ]


def check_order(place: str, turns: Sequence[Message]) -> None:
    """Refuse all but a system prompt, which may be missing, then user and assistant by turns.

    Raises:
        DataError: it is not, or does not end in an answer.
    """
    start = 1 if turns and turns[0].role == "system" else 0
    for number, turn in enumerate(turns[start:], start=start + 1):
        wanted = "assistant" if (number - start) % 2 == 0 else "user"
        if turn.role == wanted:
            continue
        at = f"{place}: message {number} is {OWNERS[turn.role]}"
        if turn.role == "system":
            raise DataError(f"{at}, not the first message; keep one system prompt, at the start")
        if number == start + 1:
            raise DataError(f"{at}, and no user's is before it; remove it, or the row")
        raise DataError(f"{at} like the one before it; join the two, or remove the row")
    if len(turns) <= start:
        raise DataError(f"{place}: no messages of a user and an assistant; remove the row")
    if turns[-1].role == "user":
        raise DataError(
            f"{place}: the conversation ends with the user's message {len(turns)}; "
            "add the assistant's answer, or remove that message"
        )


def instruction_of(turns: Sequence[Message]) -> str:
    """The user's turns, with a blank line between two."""
    return TURNS_BREAK.join(turn.content for turn in turns if turn.role == "user")


def _message(place: str, item: Any) -> Message:
    if not isinstance(item, Mapping):
        raise DataError(
            f'{place} is {kind(item)}, not an object such as {{"role": "user", "content": "..."}}; '
            "mend or remove the row"
        )
    role = _role(place, item[_key(place, item, ROLE_KEYS)])
    if item.get("tool_calls") or item.get("function_call"):
        raise DataError(f"{place} calls a tool, which fedrouter cannot train; remove the row")
    key = _key(place, item, CONTENT_KEYS)
    content = _content(place, key, item[key])
    if content.strip():
        return Message(role, content)
    if role == "system":
        return Message(role, "")
    raise DataError(f"{place} is empty; fill it in or remove the row")


def _key(place: str, item: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The first of the keys that a message has; with a value, where a Parquet file has them all."""
    has = [key for key in keys if key in item]
    if not has:
        names = ", ".join(map(repr, item)) or "nothing"
        raise DataError(f"{place} has no {keys[0]!r} (it has {names}); add it, or remove the row")
    return next((key for key in has if item[key] is not None), has[0])


def _role(place: str, name: Any) -> _Role:
    known = str(name).strip().lower()
    if known in ROLES:
        return ROLES[known]
    if any(word in known for word in TOOL_WORDS):
        raise DataError(
            f"{place} is of role {name!r}; fedrouter cannot train calls of tools: remove the row"
        )
    raise DataError(
        f"{place} is of the unknown role {name!r}; use one of {', '.join(ROLES)}, or remove the row"
    )


def _content(place: str, key: str, value: Any) -> str:
    """A text, or the texts of a list of parts, joined."""
    if isinstance(value, list):
        value = "".join(_part(place, part) for part in value)
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise DataError(f"{place} holds {kind(value)}, not a text; mend or remove the row")
    return whole_characters(place, key, value)


def _part(place: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type", "text") != "text":
        found = part.get("type") if isinstance(part, Mapping) else kind(part)
        raise DataError(
            f"{place} holds a part of type {found!r}; only text can be trained on: remove the row"
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise DataError(f"{place} holds a part without a text; mend or remove the row")
    return text
