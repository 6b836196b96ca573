"""One sample: an instruction and its response."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One sample.

    Attributes:
        instruction: the prompt without any template; of a conversation, the user's turns. This text
            is embedded and routed.
        response: the wanted answer.
        task: the true task's name, if known; used for splitting, the oracle and scoring, never by
            the method itself.
        group: value of `data.split_column`; used to deal rows to clients only.
        messages: the conversation up to the response; empty for a single user turn, which is
            then `instruction`.

    >>> from fedrouter import Row
    >>> row = Row("Which city is the capital of France?", "Paris", task="facts")
    >>> row.response
    'Paris'
    """

    instruction: str
    response: str
    task: str | None = None
    group: str | None = None
    messages: tuple[Message, ...] = ()
