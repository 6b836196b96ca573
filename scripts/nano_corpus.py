"""The pretraining text of the built-in base model, and the text held out from it."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from domain_text import domain_documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fedrouter.seeding import generator

WIKIPEDIA_PASSES = 3  # Wikipedia is a twentieth of the text: read more often than the rest
HELD_OUT = 0.02  # share of the Wikipedia paragraphs and of the prompts
END, PAD = "<eos>", "<pad>"


def training_texts(folder: Path, domain_count: int, seed: int) -> list[str]:
    """All training documents: prompts, arithmetic, Wikipedia, and text of the tasks' domains."""
    return [
        *(text for text in _prompts(folder) if not held_out(text)),
        *_arithmetic(folder),
        *_wikipedia_training(folder) * WIKIPEDIA_PASSES,
        *domain_documents(domain_count, seed),
    ]


def held_out_texts(folder: Path) -> dict[str, list[str]]:
    """The documents held out from training, by source; all models are scored on them."""
    return {
        "Wikipedia": [text for text in _paragraphs(folder) if held_out(text)],
        "prompts": [text for text in _prompts(folder) if held_out(text)],
    }


def held_out(text: str) -> bool:
    """Whether a document is held out; depends on its content, not on its position."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT * 2**32


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that splits numbers into digits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, bos_token=END
    )


class TokenStream:
    """The training documents as an endless stream of tokens, shuffled again for every epoch.

    Args:
        texts: the documents; each is followed by the end token.
        tokenizer: by `train_tokenizer`.
        seed: seed of the order of the documents.

    Attributes:
        size: number of tokens of one epoch.
    """

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts)
        end = [tokenizer.eos_token_id]
        self._documents = [np.array(one.ids + end, dtype=np.uint16) for one in encoded]
        self.size = sum(map(len, self._documents))
        self._seed = seed
        self._pass, self._tokens = -1, np.empty(0, dtype=np.uint16)

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` tokens from `start` on, int64; may cross the ends of epochs."""
        parts = []
        while count:
            number, offset = divmod(start, self.size)
            part = self._shuffled(number)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts).astype(np.int64)

    def _shuffled(self, number: int) -> np.ndarray:
        if number != self._pass:
            order = generator(self._seed, "order", number).permutation(len(self._documents))
            self._pass, self._tokens = number, np.concatenate([self._documents[i] for i in order])
        return self._tokens


def _prompts(folder: Path) -> Iterator[str]:
    for record in _records(folder / "p3.jsonl.gz"):
        yield f"{record['prompt']}\n{record['completion']}"


def _arithmetic(folder: Path) -> Iterator[str]:
    for record in _records(folder / "gsm8k.jsonl.gz"):
        yield f"{record['question']}\n{record['answer']}"


def _paragraphs(folder: Path) -> list[str]:
    with gzip.open(folder / "wikitext2.txt.gz", "rt", encoding="utf-8") as lines:
        return [line.strip() for line in lines if line.strip()]


def _wikipedia_training(folder: Path) -> list[str]:
    """Runs of paragraphs, about 2,000 characters each, without those held out."""
    texts: list[str] = [""]
    for paragraph in _paragraphs(folder):
        if held_out(paragraph):
            continue
        if len(texts[-1]) > 2000:
            texts.append("")
        texts[-1] += paragraph + "\n"
    return [text.strip() for text in texts if text]


def _records(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)
