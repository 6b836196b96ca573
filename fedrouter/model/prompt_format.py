"""Instructions and responses as token ids, the same way for training and for generation.

A prompt is the template filled with a conversation, mostly of one user turn. Prompt and response
are tokenised apart and joined as ids, so that what a model is trained to continue is, token by
token, what it is given at generation, whatever spaces or line breaks the template ends in.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from fedrouter.data.rows import Message, Row
from fedrouter.errors import DataError, ModelError
from fedrouter.model.chat_template import ChatTemplate, make_template
from fedrouter.model.tokenization import Tokenization

Conversation = Sequence[Message]


class _Shared(dict[int, int]):
    """One object for each token id: an integer of its own for every token takes four times the
    memory of the reference to it."""

    def __missing__(self, id: int) -> int:
        self[id] = id
        return id


@dataclass(frozen=True, slots=True)
class Example:
    """A training sample.

    Attributes:
        input_ids: the prompt's tokens, the response's tokens, end of sequence.
        prompt_length: number of the prompt's tokens; the loss is on what follows them.
    """

    input_ids: tuple[int, ...]
    prompt_length: int


class PromptFormat:
    """Turns conversations and responses into token ids, and generated ids into text.

    A prompt that is too long for `max_length` loses its oldest turns first, a user turn together
    with the answers to it, and then the end of the last user turn. A system text stays, unless it
    leaves no room for the last turn. Template and response are never cut.

    Args:
        tokenizer: the base model's.
        template: "auto", "chat", a name in `chat_template.TEMPLATES`, or a text with exactly one
            ``{instruction}``. Other braces stand for themselves.
        max_length: tokens that a prompt, or a prompt with its response, has at most.
        end_ids: tokens besides the tokenizer's own that end a generated response.
        embeddings: number of tokens that the base model has embeddings for.

    Attributes:
        template: what "auto" stands for: "chat", a name, or a text.
        end_id: the token that ends a response in training: what the chat template writes after a
            response, or else `eos_id`.
        end_ids: all tokens that end a generated one.
        pad_id: a token to fill batches with; where the tokenizer has none, or one that the base
            model has no embedding for, `eos_id` (padding is masked, so the vocabulary never needs
            to grow).

    Raises:
        ConfigError: the template is none of them.
        ModelError: the tokenizer has no end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str = "auto",
        max_length: int = 512,
        end_ids: Collection[int] = (),
        embeddings: int = sys.maxsize,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the base model's tokenizer has no end-of-sequence token; "
                "name one as eos_token in its tokenizer_config.json"
            )
        self.max_length = max_length
        self._template = make_template(template, tokenizer)
        self.template = self._template.name
        self._tokens = Tokenization(tokenizer, self._template.own_texts())
        self.eos_id: int = tokenizer.eos_token_id
        end = self._tokens.first_special(self._template.after_response())
        self.end_id = self.eos_id if end is None else end
        self.end_ids = frozenset({self.eos_id, self.end_id, *end_ids})
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None or pad >= embeddings else pad
        self._tokenizer, self._embeddings = tokenizer, embeddings
        self._shared = _Shared()
        # Byte-level tokenizers with add_prefix_space put a space before each text and leave it.
        self._adds_space = self._tokens.decode(self._tokens.text_ids(["a"])[0]) == " a"

    def prompt_ids(self, prompt: str | Conversation) -> list[int]:
        """What the model is given at generation; at most `max_length` tokens.

        Args:
            prompt: an instruction, which is one user turn, or a conversation.

        Raises:
            DataError: the template alone is longer than that, or refuses the conversation.
        """
        turns = _turns(prompt)
        [ids] = self._prompts([turns])
        return ids if len(ids) <= self.max_length else self._shortened(turns, 0)

    def prompt_text(self, prompt: str | Conversation) -> str:
        """A whole prompt as a text, for engines that have the same tokenizer."""
        return "".join(segment.text for segment in self._template.segments(_turns(prompt)))

    def length(self, prompt: str | Conversation) -> int:
        """The number of tokens of a whole prompt, however long."""
        return len(self._prompts([_turns(prompt)])[0])

    def token_text(self, token: int) -> str:
        """The text of one token on its own, special tokens included."""
        return str(self._tokenizer.decode([token], skip_special_tokens=False))

    def example(self, prompt: str | Conversation, response: str) -> Example:
        """`prompt_ids(prompt)`, the response, the end of the response.

        Only where these are more than `max_length` tokens together is the prompt cut shorter
        than `prompt_ids` would, to leave the response its room.

        Raises:
            DataError: template and response do not fit, even without the prompt.
        """
        [ids], [rest] = self._prompts([_turns(prompt)]), self._tokens.text_ids([response])
        return self._join(_turns(prompt), ids, [*rest, self.end_id])

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """An `example` of every row, tokenised in one batch."""
        conversations = [_turns(row.messages or row.instruction) for row in rows]
        prompts = self._prompts(conversations)
        responses = self._tokens.text_ids([row.response for row in rows])
        return [
            self._join(turns, prompt, [*response, self.end_id])
            for turns, prompt, response in zip(conversations, prompts, responses, strict=True)
        ]

    def check(self, rows: Sequence[Row], what: str) -> None:
        """Refuse rows whose response does not fit, or whose conversation the template cannot write,
        before any work is spent on them.

        Args:
            rows: the rows.
            what: what to call them, such as "training row".

        Raises:
            DataError: template and response of a row are longer than `max_length`; names the row's
                number, from 1.
        """
        template = len(self._prompts([_turns("")])[0])
        responses = self._tokens.text_ids([row.response for row in rows])
        for number, (row, response) in enumerate(zip(rows, responses, strict=True), start=1):
            needed = template + len(response) + 1
            if needed > self.max_length:
                raise DataError(
                    f"{what} {number}: template and response take {needed} tokens, more than "
                    f"model.max_length = {self.max_length} allows; set model.max_length to "
                    f"{needed} or more, or shorten the response"
                )
            try:
                self._template.segments(_turns(row.messages or row.instruction))
            except DataError as error:
                raise DataError(f"{what} {number}: {error}") from error

    def check_vocabulary(self) -> None:
        """Refuse a tokenizer whose tokens for prompts or responses the base model cannot read.

        Raises:
            ModelError: names the first token that has no embedding.
        """
        tokenizer = self._tokenizer
        special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        used = {tokenizer.unk_token_id, self.eos_id, self.end_id}.union(
            self._tokens.leading, self._tokens.in_template
        )
        for token, id in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
            if id >= self._embeddings and (id in used or id not in special):
                raise ModelError(
                    f"the tokenizer has the token {token!r} with id {id}, but the base model has "
                    f"embeddings for {self._embeddings} tokens only; use the model's own tokenizer,"
                    " or save the model again after model.resize_token_embeddings(len(tokenizer))"
                )

    def note(self, rows: Sequence[Row]) -> str | None:
        """What a user should know of how these rows are written; None where there is nothing."""
        systems = sum(row.messages[:1] != () and row.messages[0].role == "system" for row in rows)
        if systems and isinstance(self._template, ChatTemplate) and self._template.folds_system:
            return (
                "the base model's chat template takes no system turn: the system text of "
                f"{systems} rows is written at the beginning of their first user turn"
            )
        return None

    def bare_ids(self, instruction: str) -> list[int]:
        """What is embedded: the instruction's tokens alone, no template and no special tokens.

        At most `max_length` of them, and never none: a text that the tokenizer has no token for
        becomes one end of sequence.
        """
        return self._tokens.text_ids([instruction])[0][: self.max_length] or [self.eos_id]

    def decode(self, response_ids: Sequence[int]) -> str:
        """The text of a response up to the first token that ends it, special tokens left out."""
        ids = list(takewhile(lambda id: id not in self.end_ids, response_ids))
        text = self._tokens.decode(ids)
        return text.removeprefix(" ") if self._adds_space else text

    def _join(self, turns: Conversation, prompt: list[int], rest: list[int]) -> Example:
        if len(prompt) + len(rest) > self.max_length:
            prompt = self._shortened(turns, len(rest))
        return Example(tuple(self._shared[id] for id in (*prompt, *rest)), len(prompt))

    def _shortened(self, turns: Conversation, reserved: int) -> list[int]:
        """The longest prompt that leaves `reserved` tokens free, shortened as the class says."""
        while len(shorter := _without_oldest(turns)) < len(turns):
            turns = shorter
            [ids] = self._prompts([turns])
            if len(ids) + reserved <= self.max_length:
                return ids
        for kept in (turns, turns[-1:]):  # with the system text, and without
            [ids] = self._prompts([_cut(kept, 0)])
            if len(ids) + reserved <= self.max_length:
                return self._filled(kept, ids, reserved)
        response = f" and the response {reserved}" if reserved else ""
        raise DataError(
            f"the template takes {len(ids)} tokens{response}, more than model.max_length = "
            f"{self.max_length} allows; set model.max_length to {len(ids) + reserved} or more, "
            f"or shorten {'the response' if reserved else 'model.template'}"
        )

    def _filled(self, turns: Conversation, ids: list[int], reserved: int) -> list[int]:
        """The prompt with the longest start of its last turn that leaves `reserved` tokens free.

        Args:
            turns: the conversation.
            ids: its prompt without any of the last turn's text, which fits.
            reserved: the tokens to leave.
        """
        fits, too_long = 0, len(turns[-1].content)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            [longer] = self._prompts([_cut(turns, middle)])
            if len(longer) + reserved <= self.max_length:
                fits, ids = middle, longer
            else:
                too_long = middle
        return ids

    def _prompts(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Whole prompts, however long."""
        segments = [self._template.segments(turns) for turns in conversations]
        ids = self._tokens.prompt_ids(segments)
        start = [] if self._template.writes_start else self._tokens.leading
        return [one if one[: len(start)] == start else [*start, *one] for one in ids]


def _turns(prompt: str | Conversation) -> Conversation:
    """The conversation of a prompt; an instruction is one user turn."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def _without_oldest(turns: Conversation) -> Conversation:
    """The conversation without its first user turn and the answers to it, where another follows."""
    start = int(turns[0].role == "system")
    later = [i for i in range(start + 1, len(turns)) if turns[i].role == "user"]
    return (*turns[:start], *turns[later[0] :]) if later else turns


def _cut(turns: Conversation, length: int) -> Conversation:
    """The conversation with so many characters of its last turn."""
    return (*turns[:-1], Message(turns[-1].role, turns[-1].content[:length]))
