"""Templates that turn a conversation into the text of a prompt.

A template gives a list of segments, each either the template's own text or somebody's data, so that
the tokeniser can read a special token in the one and plain text in the other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from fedrouter.data.rows import Message
from fedrouter.errors import ConfigError, DataError

FIELD = "{instruction}"
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
TEMPLATES = {"alpaca": ALPACA}
NAMES = ("auto", "chat", *TEMPLATES)

_REASONING = re.compile("(</?think>)")
# What stands for a text while the chat template is rendered: private-use characters around the
# text's number. No data are in the rendered text, so they cannot be mistaken for one.
_OPEN, _CLOSE = "\ue000", "\ue001"
_PLACEHOLDER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a prompt's text; `is_data` tells a user's text from the template's own."""

    text: str
    is_data: bool


class Template(Protocol):
    """Conversation -> segments."""

    name: str  # as in `model.template`
    writes_start: bool  # whether the text already holds the beginning-of-sequence token, if any

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """The prompt of a conversation that ends with the user's turn."""
        ...

    def after_response(self) -> str:
        """What the template writes after a response; "" where it says nothing of it."""
        ...

    def own_texts(self) -> list[str]:
        """Texts of the template in which all tokens occur that it names."""
        ...


class TextTemplate:
    """A text with one ``{instruction}``, where the whole conversation goes.

    One user turn is written as it is. In a longer conversation every user turn begins with
    "User: ", every assistant turn with "Assistant: ", and blank lines separate turns; a system text
    comes first, as it is.

    Raises:
        ConfigError: the text has not exactly one ``{instruction}``.
    """

    writes_start = False

    def __init__(self, template: str) -> None:
        text = TEMPLATES.get(template, template)
        if text.count(FIELD) != 1:
            raise ConfigError(
                f"model.template = {template!r} is neither one of {', '.join(NAMES)} "
                f"nor a text with exactly one {FIELD}"
            )
        self.name = template
        self._before, self._after = text.split(FIELD)

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """The text before the instruction, the joined turns, the text after it."""
        return [
            Segment(self._before, False),
            Segment(joined_turns(messages), True),
            Segment(self._after, False),
        ]

    def after_response(self) -> str:
        """Nothing: such a template ends where the response begins."""
        return ""

    def own_texts(self) -> list[str]:
        """The text before the instruction, and after it."""
        return [self._before, self._after]


class ChatTemplate:
    """The tokenizer's own chat template, rendered by transformers in Jinja's sandbox.

    The template sees the roles, the order of the turns, the white space around their texts, which
    many templates strip, and where an assistant's reasoning ends. It never sees the texts: those
    are put in afterwards, so that nothing in them can act as a part of the template. Where a
    template refuses or leaves out a system turn (Gemma, the first Mistral), the system text is put
    at the beginning of the user turn that follows, with a blank line after it. Where it reads texts
    only out of lists of parts, as many for texts with images do, it gets them so.

    Attributes:
        folds_system: whether system texts are written so.

    Raises:
        ConfigError: the tokenizer has no chat template.
    """

    name = "chat"
    writes_start = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not has_chat_template(tokenizer):
            raise ConfigError(
                "model.template = 'chat', but the base model's tokenizer has no chat template; "
                "set model.template to 'alpaca' or to a text with {instruction}"
            )
        self._tokenizer = tokenizer
        self._layouts: dict[tuple[Message, ...], list[Segment | int]] = {}
        system, user = Message("system", _placeholder(0)), Message("user", _placeholder(1))
        self._in_parts = False
        if not self._writes(user):
            self._in_parts = True
            self._in_parts = self._writes(user)
        self.folds_system = not self._writes(system, user)

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """The rendered conversation, up to where the response begins.

        Raises:
            DataError: the template refuses the conversation.
        """
        texts: list[str] = []
        shape = tuple(Message(turn.role, _outline(turn, texts)) for turn in messages)
        if shape not in self._layouts:
            self._layouts[shape] = self._layout(shape)
        return [
            Segment(texts[part], True) if isinstance(part, int) else part
            for part in self._layouts[shape]
        ]

    def after_response(self) -> str:
        """What the template writes between a response and the end of the text; "" where it refuses
        to write a response."""
        turns = Message("user", "a"), Message("assistant", _placeholder(0))
        try:
            return self._render(turns, ask=False).partition(_placeholder(0))[2]
        except Exception:  # whatever a template from somebody's folder may raise
            return ""

    def own_texts(self) -> list[str]:
        """What the template writes around the turns of short conversations."""
        system, user = Message("system", "a"), Message("user", "b")
        assistant = Message("assistant", "c")
        texts = [self.after_response()]
        for turns in ((user,), (system, user), (user, assistant, user)):
            try:
                segments = self.segments(turns)
            except DataError:  # said where a row has such turns
                continue
            texts += [segment.text for segment in segments if not segment.is_data]
        return texts

    def _layout(self, shape: tuple[Message, ...]) -> list[Segment | int]:
        """The template's own text, and the numbers of the texts that go between.

        Args:
            shape: the conversation, with placeholders for its texts.
        """
        folded = shape
        if shape[0].role == "system" and self.folds_system:
            folded = _folded(shape)
        try:
            text = self._render(folded, ask=True)
        except Exception as error:  # whatever a template from somebody's folder may raise
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise self._refusal(shape, reason) from error
        parts: list[Segment | int] = []
        for i, piece in enumerate(_PLACEHOLDER.split(text)):
            if i % 2:
                parts.append(int(piece))
            elif piece:
                parts.append(Segment(piece, False))
        written = [part for part in parts if isinstance(part, int)]
        if len(set(written)) < len(written) or not _needed(shape) <= set(written):
            raise self._refusal(shape, "it does not write every turn exactly once")
        return parts

    def _writes(self, *turns: Message) -> bool:
        """Whether the template takes these turns and writes all their texts."""
        try:
            text = self._render(turns, ask=True)
        except Exception:  # whatever a template from somebody's folder may raise
            return False
        return all(turn.content in text for turn in turns)

    def _render(self, turns: Sequence[Message], *, ask: bool) -> str:
        """The text of a conversation; with `ask`, up to where the response begins."""
        conversation: Any = [
            {"role": turn.role, "content": self._content(turn.content)} for turn in turns
        ]
        return str(
            self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=ask
            )
        )

    def _content(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self._in_parts else text

    def _refusal(self, shape: Sequence[Message], reason: str) -> DataError:
        roles = ", ".join(turn.role for turn in shape)
        return DataError(
            f"the base model's chat template cannot write a conversation of the turns {roles} "
            f"({reason}); change the conversation, or set model.template to 'alpaca'"
        )


def make_template(name: str, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template that `model.template` stands for; "auto" is the tokenizer's chat template where
    it has one, else "alpaca".

    Raises:
        ConfigError: it is "chat" and the tokenizer has none, or it is no template.
    """
    if name == "auto":
        name = "chat" if has_chat_template(tokenizer) else "alpaca"
    return ChatTemplate(tokenizer) if name == "chat" else TextTemplate(name)


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has a chat template for conversations without tools."""
    try:
        return bool(tokenizer.get_chat_template())
    except ValueError:
        return False


def joined_turns(messages: Sequence[Message]) -> str:
    """A conversation as one text, for templates that have a place for one; see `TextTemplate`."""
    labels = {"system": "", "user": "User: ", "assistant": "Assistant: "}
    if sum(turn.role != "system" for turn in messages) == 1:
        labels = dict.fromkeys(labels, "")
    return "\n\n".join(f"{labels[turn.role]}{turn.content}" for turn in messages)


def _placeholder(number: int) -> str:
    return f"{_OPEN}{number}{_CLOSE}"


def _outline(turn: Message, texts: list[str]) -> str:
    """The turn's content as a template sees it: a placeholder for each text, but for the white
    space around it and for the marks of an assistant's reasoning, which templates look for.

    Args:
        turn: the turn.
        texts: what the placeholders stand for; the turn's texts are added.
    """
    parts = _REASONING.split(turn.content) if turn.role == "assistant" else [turn.content]
    for i in range(0, len(parts), 2):
        text = parts[i].strip()
        if text:
            start = parts[i].index(text)
            after = parts[i][start + len(text) :]
            parts[i] = f"{parts[i][:start]}{_placeholder(len(texts))}{after}"
            texts.append(text)
    return "".join(parts)


def _needed(shape: Sequence[Message]) -> set[int]:
    """The texts that a template must write: all but the reasoning before an assistant's answer,
    which many leave out."""
    answers = (turn.content.rpartition("</think>")[2] for turn in shape)
    return {int(number) for text in answers for number in _PLACEHOLDER.findall(text)}


def _folded(shape: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with its system text at the beginning of the turn that follows."""
    system, user, *rest = shape
    return Message(user.role, f"{system.content}\n\n{user.content}"), *rest
