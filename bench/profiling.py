"""A client's profile: embedding of prompts and K-means.

Prompts a second of `BaseModel.embed` (tokenization, batching, pooling, cache) against the forward
passes alone, on tokens that were computed before, in the same batches.

``python -m bench.profiling [--full]``
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from bench.output import publish
from bench.pairs import seconds_of, timed
from fedrouter.config import ModelConfig
from fedrouter.data.builtin import TASK_NAMES, builtin_rows
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import length_batches, pad
from fedrouter.routing.clustering import cluster

PAIRED = 1000  # prompts in one of the paired runs


def prompts(number: int) -> list[str]:
    """Distinct prompts of the built-in tasks, in random order."""
    rows, _ = builtin_rows(300, 1)
    order = np.random.default_rng(0).permutation(number)
    return [f"{rows[i % len(rows)].instruction} {i // len(rows)}" for i in order]


def batches(base: BaseModel, texts: list[str]) -> list[tuple[Tensor, Tensor]]:
    """The token batches that `embed` passes to the model."""
    ids = [base.prompts.bare_ids(text) for text in texts]
    return [
        pad([ids[i] for i in batch], base.prompts.pad_id, side="right", device=base.device)
        for batch in length_batches([len(one) for one in ids])
    ]


@torch.no_grad()
def forward(base: BaseModel, made: list[tuple[Tensor, Tensor]]) -> None:
    """The forward passes alone."""
    decoder = getattr(base.model, base.model.base_model_prefix)
    for tokens, mask in made:
        decoder(input_ids=tokens, attention_mask=mask, use_cache=False)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="100,000 prompts instead of 5,000")
    full = parser.parse_args().full
    number, repeats = (100_000, 5) if full else (5_000, 3)
    base = BaseModel.load(ModelConfig())
    texts = prompts(number)
    fresh = [texts[i * PAIRED : (i + 1) * PAIRED] for i in range(repeats + 1)]
    parts = [(part, batches(base, part)) for part in fresh]
    ours, theirs = iter(parts), iter(parts)
    pairs = timed(
        lambda: base.embed(next(ours)[0]), lambda: forward(base, next(theirs)[1]), repeats
    )
    rest = seconds_of(lambda: base.embed(texts))
    again = seconds_of(lambda: base.embed(texts))
    points = base.embed(texts)
    clustering = seconds_of(lambda: cluster(points, len(TASK_NAMES), seed=0))
    rows = [
        {
            "prompts": number,
            "embedded a second": PAIRED / pairs.row()["seconds"],
            "of the forward pass": pairs.ratio,
            "lowest": pairs.spread[0],
            "highest": pairs.spread[1],
            "seconds": rest * number / (number - len(parts) * PAIRED),
            "again": again,
            "clustering": clustering,
        }
    ]
    notes = [
        f"nano, float32; ratio from {repeats} pairs of {PAIRED} prompts. Seconds: to embed all, to "
        f"embed them again, and K-means of them into {len(TASK_NAMES)} tasks, ten starts.",
    ]
    publish("profiling", "A client's profile", rows, notes)


if __name__ == "__main__":
    main()
