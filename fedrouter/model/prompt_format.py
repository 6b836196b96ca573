"""Instructions and responses as token ids, the same way for training and for generation.

A prompt is the template filled with the instruction. Prompt and response are tokenised apart and
joined as ids, so that what a model is trained to continue is, token by token, what it is given at
generation, whatever spaces or line breaks the template ends in.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from fedrouter.data.rows import Row
from fedrouter.errors import ConfigError, DataError, ModelError

TEMPLATES = {
    "alpaca": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:\n"
    )
}
FIELD = "{instruction}"


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
    """Turns instructions and responses into token ids, and generated ids into text.

    Args:
        tokenizer: the base model's.
        template: a name in `TEMPLATES`, or a text with exactly one ``{instruction}``. Other braces
            stand for themselves.
        max_length: tokens that a prompt, or a prompt with its response, has at most. Instructions
            are shortened at their end to fit; the template and the response never are.
        end_ids: tokens besides the tokenizer's own that end a generated response.

    Attributes:
        eos_id: the token that ends a response in training.
        end_ids: all tokens that end a generated one.
        pad_id: a token to fill batches with; where the tokenizer has none, `eos_id` (padding is
            masked, so the vocabulary never needs to grow).

    Raises:
        ConfigError: the template is neither.
        ModelError: the tokenizer has no end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str = "alpaca",
        max_length: int = 512,
        end_ids: Collection[int] = (),
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the base model's tokenizer has no end-of-sequence token; "
                "name one as eos_token in its tokenizer_config.json"
            )
        self.max_length = max_length
        self.eos_id: int = tokenizer.eos_token_id
        self.end_ids = frozenset({self.eos_id, *end_ids})
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._tokenizer = tokenizer
        self._before, self._after = _split_template(template)
        # "</s>" in somebody's data is text, not an end. Only a template may call special tokens.
        self._specials_in_prompt = any(
            token in self._before + self._after for token in tokenizer.all_special_tokens
        )
        self._leading = self._leading_ids()
        # Byte-level tokenizers with add_prefix_space put a space before each text and leave it.
        self._adds_space = self._text(self._ids(["a"])[0]) == " a"

    def prompt_ids(self, instruction: str) -> list[int]:
        """What the model is given at generation; at most `max_length` tokens.

        Raises:
            DataError: the template alone is longer than that.
        """
        ids = next(self._prompts([instruction]))
        return ids if len(ids) <= self.max_length else self._shortened(instruction, 0)

    def example(self, instruction: str, response: str) -> Example:
        """`prompt_ids(instruction)`, the response, end of sequence.

        Only where these are more than `max_length` tokens together is the instruction cut shorter
        than `prompt_ids` would, to leave the response its room.

        Raises:
            DataError: template and response do not fit, even without the instruction.
        """
        return self.examples([Row(instruction, response)])[0]

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """An `example` of every row, tokenised in one batch."""
        prompts = self._prompts([row.instruction for row in rows])
        responses = self._ids([row.response for row in rows])
        return [
            self._join(row.instruction, prompt, [*response, self.eos_id])
            for row, prompt, response in zip(rows, prompts, responses, strict=True)
        ]

    def check(self, rows: Sequence[Row], what: str) -> None:
        """Refuse rows whose response does not fit, before any work is spent on them.

        Args:
            rows: the rows.
            what: what to call them, such as "training row".

        Raises:
            DataError: template and response of a row are longer than `max_length`; names the row's
                number, from 1.
        """
        template = len(next(self._prompts([""])))
        for number, response in enumerate(self._ids([row.response for row in rows]), start=1):
            needed = template + len(response) + 1
            if needed > self.max_length:
                raise DataError(
                    f"{what} {number}: template and response take {needed} tokens, more than "
                    f"model.max_length = {self.max_length} allows; set model.max_length to "
                    f"{needed} or more, or shorten the response"
                )

    def bare_ids(self, instruction: str) -> list[int]:
        """What is embedded: the instruction's tokens alone, no template and no special tokens.

        At most `max_length` of them, and never none: a text that the tokenizer has no token for
        becomes one end of sequence.
        """
        return self._ids([instruction])[0][: self.max_length] or [self.eos_id]

    def decode(self, response_ids: Sequence[int]) -> str:
        """The text of a response up to the first token that ends it, special tokens left out."""
        text = self._text(list(takewhile(lambda id: id not in self.end_ids, response_ids)))
        return text.removeprefix(" ") if self._adds_space else text

    def _join(self, instruction: str, prompt: list[int], rest: list[int]) -> Example:
        if len(prompt) + len(rest) > self.max_length:
            prompt = self._shortened(instruction, len(rest))
        return Example((*prompt, *rest), len(prompt))

    def _shortened(self, instruction: str, reserved: int) -> list[int]:
        """The prompt of the longest start of `instruction` that leaves `reserved` tokens free."""
        ids = next(self._prompts([""]))
        if len(ids) + reserved > self.max_length:
            response = f" and the response {reserved}" if reserved else ""
            raise DataError(
                f"the template takes {len(ids)} tokens{response}, more than model.max_length = "
                f"{self.max_length} allows; set model.max_length to {len(ids) + reserved} or more, "
                f"or shorten {'the response' if reserved else 'model.template'}"
            )
        fits, too_long = 0, len(instruction)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            longer = next(self._prompts([instruction[:middle]]))
            if len(longer) + reserved <= self.max_length:
                fits, ids = middle, longer
            else:
                too_long = middle
        return ids

    def _prompts(self, instructions: Sequence[str]) -> Iterator[list[int]]:
        """Whole prompts, however long. The text is tokenised in one piece, as it reads."""
        texts = [f"{self._before}{text}{self._after}" for text in instructions]
        ids = self._ids(texts, specials_in_text=self._specials_in_prompt)
        return ([*self._leading, *one] for one in ids)

    def _ids(
        self, texts: Sequence[str], *, add_specials: bool = False, specials_in_text: bool = False
    ) -> list[list[int]]:
        """Token ids of each text; with `specials_in_text`, "</s>" is the token of that name."""
        if not texts:
            return []  # transformers fails on an empty batch
        ids: list[list[int]] = self._tokenizer(
            list(texts),
            add_special_tokens=add_specials,
            split_special_tokens=not specials_in_text,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids

    def _leading_ids(self) -> list[int]:
        """The tokens, such as a beginning of sequence, that the tokenizer puts before a text."""
        [plain] = self._ids([TEMPLATES["alpaca"]])
        [full] = self._ids([TEMPLATES["alpaca"]], add_specials=True)
        starts = range(len(full) - len(plain) + 1)
        return full[: next((i for i in starts if full[i : i + len(plain)] == plain), 0)]

    def _text(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def _split_template(template: str) -> tuple[str, str]:
    """The text before and after the instruction."""
    text = TEMPLATES.get(template, template)
    if text.count(FIELD) != 1:
        raise ConfigError(
            f"model.template = {template!r} is neither one of {', '.join(TEMPLATES)} "
            f"nor a text with exactly one {FIELD}"
        )
    before, after = text.split(FIELD)
    return before, after
