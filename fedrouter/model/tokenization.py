"""Texts as token ids, with special tokens only where a template names them.

The tokenizer reads a prompt in one piece, as `apply_chat_template` does. Only where that makes a
special token out of somebody's data are the template's special tokens and the text between them
tokenised apart.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

from transformers import PreTrainedTokenizerBase

from fedrouter.model.chat_template import ALPACA, Segment


class Tokenization:
    """A tokenizer whose special tokens cannot be called by data.

    Attributes:
        leading: the tokens, such as a beginning of sequence, that the tokenizer puts before a text.
        in_template: the added tokens that the template names.

    Args:
        tokenizer: the base model's.
        reserved: texts of the template. The added tokens in them are as special as those that the
            tokenizer calls special: many ChatML models do not mark theirs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reserved: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {id for id, token in added.items() if token.special}
        if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
            special.discard(tokenizer.unk_token_id)  # any text may hold something unknown
        named = set(chain.from_iterable(self._encode(list(reserved), specials=True)))
        self._added = added
        self.in_template = frozenset(added.keys() & named)
        self._special = frozenset(special | self.in_template)
        names = sorted((added[id].content for id in self._special), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._by_layout: dict[tuple[str, ...], list[int]] = {}
        self.leading = self._leading()

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, none of them special."""
        ids = self._encode(texts, specials=False)
        return [
            one if self._special.isdisjoint(one) else self._cut_ids(text)
            for text, one in zip(texts, ids, strict=True)
        ]

    def prompt_ids(self, prompts: Sequence[Sequence[Segment]]) -> list[list[int]]:
        """Token ids of each prompt, with the special tokens that its template names."""
        texts = ["".join(segment.text for segment in prompt) for prompt in prompts]
        expected = [self._specials(prompt) for prompt in prompts]
        plain = iter(self.text_ids([t for t, e in zip(texts, expected, strict=True) if not e]))
        whole = iter(
            self._encode([t for t, e in zip(texts, expected, strict=True) if e], specials=True)
        )
        return [
            self._checked(next(whole), prompt, specials) if specials else next(plain)
            for prompt, specials in zip(prompts, expected, strict=True)
        ]

    def first_special(self, text: str) -> int | None:
        """The first special token that a template's text names; None where it names none."""
        [ids] = self._encode([text], specials=True)
        return next((id for id in ids if id in self._special), None)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _checked(self, ids: list[int], prompt: Sequence[Segment], specials: list[int]) -> list[int]:
        """The ids, if just the template's special tokens are in them; else made in parts."""
        same = [id for id in ids if id in self._special] == specials
        return ids if same else self._apart(prompt)

    def _specials(self, prompt: Sequence[Segment]) -> list[int]:
        """The special tokens that the template's own text names."""
        layout = tuple("a" if segment.is_data else segment.text for segment in prompt)
        if layout not in self._by_layout:
            [ids] = self._encode(["".join(layout)], specials=True)
            self._by_layout[layout] = [id for id in ids if id in self._special]
        return self._by_layout[layout]

    def _apart(self, prompt: Sequence[Segment]) -> list[int]:
        """The template's special tokens, and the texts between them, each tokenised by itself."""
        texts, specials = [""], []
        for segment in prompt:
            start = 0
            for found in () if segment.is_data else self._names.finditer(segment.text):
                texts[-1] += segment.text[start : found.start()]
                specials.append(found.group())
                texts.append("")
                start = found.end()
            texts[-1] += segment.text[start:]
        ids_of = {self._added[id].content: id for id in self._special}
        for i, name in enumerate(specials):
            token = self._added[ids_of[name]]
            texts[i] = texts[i].rstrip() if token.lstrip else texts[i]
            texts[i + 1] = texts[i + 1].lstrip() if token.rstrip else texts[i + 1]
        parts = self.text_ids(texts)
        rest = ([ids_of[name], *part] for name, part in zip(specials, parts[1:], strict=True))
        return [*parts[0], *chain.from_iterable(rest)]

    def _cut_ids(self, text: str) -> list[int]:
        """Token ids of a text that names tokens which the tokenizer would take as such: it is cut
        inside every name, so that no part holds one."""
        cuts = [0, *(found.start() + 1 for found in self._names.finditer(text)), len(text)]
        parts = [text[a:b] for a, b in pairwise(cuts)]
        ids = chain.from_iterable(self._encode(parts, specials=False))
        return [id for id in ids if id not in self._special]

    def _encode(
        self, texts: Sequence[str], *, specials: bool, add_specials: bool = False
    ) -> list[list[int]]:
        """Token ids of each text; with `specials`, "</s>" is the token of that name."""
        if not texts:
            return []  # transformers fails on an empty batch
        ids: list[list[int]] = self._tokenizer(
            list(texts),
            add_special_tokens=add_specials,
            split_special_tokens=not specials,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids

    def _leading(self) -> list[int]:
        """The tokens, such as a beginning of sequence, that the tokenizer puts before a text."""
        [plain] = self._encode([ALPACA], specials=False)
        [full] = self._encode([ALPACA], specials=False, add_specials=True)
        starts = range(len(full) - len(plain) + 1)
        return full[: next((i for i in starts if full[i : i + len(plain)] == plain), 0)]
