"""Bits per byte: the quality of prediction, independent of the tokenizer."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW = 256  # tokens that are scored together, each seeing those before it


@torch.inference_mode()
def bits_per_byte(folder: Path, texts: Sequence[str]) -> float:
    """The mean number of bits that a model needs for a byte of `texts`; lower is better.

    Every document starts afresh after the end token, is cut into windows of `WINDOW` tokens, and
    is scored with its end token; bytes are those of UTF-8.

    Args:
        folder: model and tokenizer in the format of transformers.
        texts: documents.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token_id
    nats = 0.0
    for text in texts:
        ids = torch.tensor([end, *tokenizer(text, add_special_tokens=False).input_ids, end])
        for start in range(0, len(ids) - 1, WINDOW):
            window = ids[start : start + WINDOW + 1]
            logits = model(input_ids=window[None, :-1]).logits[0]
            nats += cross_entropy(logits, window[1:], reduction="sum").item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)
