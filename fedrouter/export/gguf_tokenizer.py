"""Byte-level BPE tokenizers as llama.cpp takes them in a GGUF file."""

import json
from tempfile import TemporaryDirectory
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType
from transformers import PreTrainedTokenizerBase

from fedrouter.export.template import starts_with_bos

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}

# llama.cpp's names of ways to split a text, with what tokenizers calls the same.
_SPLITS = {"gpt-2": [_BYTE_LEVEL], "smollm": [_DIGITS, _BYTE_LEVEL]}


def split_name(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """llama.cpp's name of how the tokenizer splits a text; None if this module does not know it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    if state["model"]["type"] != "BPE" or state["normalizer"] or not state["pre_tokenizer"]:
        return None
    whole = state["pre_tokenizer"]
    steps = [_plain(step) for step in whole.get("pretokenizers", [whole])]
    return next((name for name, known in _SPLITS.items() if known == steps), None)


def add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, split: str, vocabulary: int
) -> None:
    """Add the tokens, merges, special tokens and chat template.

    Args:
        writer: of the base model's file.
        tokenizer: a byte-level BPE.
        split: as from `split_name`.
        vocabulary: the rows of the model's embedding; those without a token become unused tokens.
    """
    by_id = {id: token for token, id in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list([by_id.get(id, f"[PAD{id}]") for id in range(vocabulary)])
    writer.add_token_types([_type(tokenizer, by_id.get(id)) for id in range(vocabulary)])
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        special = SpecialVocab(folder, load_merges=True, n_vocab=vocabulary)
    special.add_special_token["bos"] = starts_with_bos(tokenizer)
    special.add_to_gguf(writer, quiet=True)


def _plain(step: dict[str, Any]) -> dict[str, Any]:
    """A step of splitting without what only says where tokens came from."""
    return {key: value for key, value in step.items() if key != "trim_offsets"}


def _type(tokenizer: PreTrainedTokenizerBase, token: str | None) -> TokenType:
    if token is None:
        return TokenType.UNUSED
    if token in tokenizer.all_special_tokens:
        return TokenType.CONTROL
    return TokenType.USER_DEFINED if token in tokenizer.get_added_vocab() else TokenType.NORMAL
