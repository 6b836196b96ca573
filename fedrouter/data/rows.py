"""One sample: an instruction and its response."""

from dataclasses import dataclass, field
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
        conversation: what the rows of one conversation share, where it makes several; they stay
            on one side of the split and with one client. It is no part of a row's value.

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
    conversation: str | None = field(default=None, compare=False, repr=False)

    @property
    def context(self) -> tuple[tuple[str, str], ...]:
        """Role and content of each of `messages`, for digests."""
        return tuple((message.role, message.content) for message in self.messages)
