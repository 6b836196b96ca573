"""Conversations as callers give them, checked."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from fedrouter.data.rows import Message
from fedrouter.errors import DataError

ROLES = get_args(get_type_hints(Message)["role"])


def read_conversation(messages: Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    """The turns of a conversation that a response is wanted for.

    Raises:
        DataError: there is no turn, one has other keys than "role" and "content", an unknown role
            or a content that is no text, or the last one is not the user's.
    """
    if isinstance(messages, str) or not messages:
        raise DataError(
            "messages holds no turn; give a list such as [{'role': 'user', 'content': 'Hello'}]"
        )
    turns = tuple(_read_turn(number, turn) for number, turn in enumerate(messages, start=1))
    if turns[-1].role != "user":
        raise DataError(
            f"the last of the {len(turns)} messages has the role {turns[-1].role!r}; "
            "end with the user's turn, which is to be answered"
        )
    return turns


def _read_turn(number: int, turn: Mapping[str, str]) -> Message:
    if not isinstance(turn, Mapping) or turn.keys() != {"role", "content"}:
        raise DataError(f"message {number}: give a mapping with the keys 'role' and 'content'")
    role: Any = turn["role"]
    content = turn["content"]
    if role not in ROLES:
        raise DataError(f"message {number}: role = {role!r}; use one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"message {number}: content is a {type(content).__name__}; give a text")
    return Message(role, content)


def user_text(prompt: str | Sequence[Message]) -> str:
    """What a prompt is routed by: an instruction, or the user's turns of a conversation with blank
    lines between them."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(turn.content for turn in prompt if turn.role == "user")
