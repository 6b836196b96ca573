"""Generation for prompts of eight different adapters, with and without routing.

One pass over a mixed batch is compared with one pass per adapter (PEFT's ``set_adapter``) and with
PEFT's mixed batches (``adapter_names``). All sides use greedy decoding with transformers'
``generate``, 32 tokens for every prompt.

``python -m bench.inference [--full]``
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig

from bench.output import publish
from bench.pairs import Pairs, timed
from bench.plain import peft_model
from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.config import ModelConfig
from fedrouter.data.builtin import builtin_rows
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import pad
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry
from fedrouter.types import AdapterWeights

ADAPTERS = 8
NEW_TOKENS = 32


def random_adapter(base: BaseModel, spec: LoraSpec, seed: int) -> AdapterWeights:
    """An adapter that changes the model a little."""
    draws = np.random.default_rng(seed)
    zero = initial_weights(base.model, spec, torch.Generator().manual_seed(0))
    return {name: draws.normal(0, 0.02, a.shape).astype(np.float32) for name, a in zero.items()}


@dataclass
class Sides:
    """The same adapters in a bank and in PEFT, each on its own copy of the base model."""

    base: BaseModel
    multi_adapter: MultiAdapterModel
    peft: PeftModel

    @classmethod
    def make(cls) -> "Sides":
        """Both sides on nano; without end tokens, so that all responses have the same length."""
        base, other = endless(BaseModel.load(ModelConfig())), BaseModel.load(ModelConfig())
        spec = LoraSpec().resolved(base.model)
        adapters = {f"t{k}": random_adapter(base, spec, k) for k in range(ADAPTERS)}
        return cls(
            base,
            MultiAdapterModel(base, spec, adapters),
            peft_model(other.model, spec, adapters).eval(),
        )

    def mixed(self, prompts: Sequence[str], names: Sequence[str]) -> list[str]:
        """The bank: one pass."""
        return self.multi_adapter.generate(prompts, [((name, 1.0),) for name in names], NEW_TOKENS)

    def one_by_one(self, prompts: Sequence[str], names: Sequence[str]) -> list[str]:
        """PEFT: a pass for each adapter."""
        texts = [""] * len(prompts)
        for name in dict.fromkeys(names):
            self.peft.set_adapter(name)
            chosen = [i for i, other in enumerate(names) if other == name]
            for i, text in zip(chosen, self._generate([prompts[i] for i in chosen]), strict=True):
                texts[i] = text
        return texts

    def by_names(self, prompts: Sequence[str], names: Sequence[str]) -> list[str]:
        """PEFT: one pass with ``adapter_names``."""
        return self._generate(prompts, adapter_names=list(names))

    @torch.no_grad()
    def _generate(self, prompts: Sequence[str], **more: Any) -> list[str]:
        ids = [self.base.prompts.prompt_ids(prompt) for prompt in prompts]
        tokens, mask = pad(ids, self.base.prompts.pad_id, side="left", device=torch.device("cpu"))
        settings = GenerationConfig(
            max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=self.base.prompts.pad_id
        )
        output = self.peft.generate(
            input_ids=tokens, attention_mask=mask, generation_config=settings, **more
        )
        return [self.base.prompts.decode(row[tokens.shape[1] :].tolist()) for row in output]


def endless(base: BaseModel) -> BaseModel:
    """The base model without end tokens."""
    base.prompts.end_ids = frozenset()
    return base


def routing(sides: Sides, prompts: Sequence[str], size: int, repeats: int) -> Pairs:
    """Generation with and without routing. Both sides of a pair have the same prompts, whose
    embeddings are not in the cache."""
    centroids = sides.base.embed(prompts[:ADAPTERS])
    space = np.eye(centroids.shape[1], dtype=np.float32)  # as a default run has one
    geometry = TaskGeometry(sides.multi_adapter.names, centroids, 1.0, 1.0, 1.0, space)
    router = Router(geometry, sides.base.fingerprint)
    names = [sides.multi_adapter.names[i % ADAPTERS] for i in range(size)]
    starts = range(ADAPTERS, len(prompts) - size, size)
    for_plain, for_routed = (iter([prompts[i : i + size] for i in starts]) for _ in range(2))

    def plain() -> None:
        sides.mixed(next(for_plain), names)

    def routed() -> None:
        batch = next(for_routed)
        router.route(sides.base.embed(batch))
        sides.mixed(batch, names)  # not those found: both sides mix equally many adapters

    return timed(routed, plain, repeats)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="16 and 64 prompts too; more repeats")
    full = parser.parse_args().full
    rows, _ = builtin_rows(300, 1)
    order = np.random.default_rng(0).permutation(len(rows))
    prompts = [rows[i].instruction for i in order]
    sides = Sides.make()
    table = []
    for size in (8, 16, 64) if full else (8,):
        asked = prompts[:size]
        names = [f"t{i % ADAPTERS}" for i in range(size)]
        ours = sides.mixed(asked, names)
        for other, run in {
            "a pass for each adapter": sides.one_by_one,
            "PEFT's adapter_names": sides.by_names,
        }.items():
            pairs = timed(
                lambda: sides.mixed(asked, names),  # noqa: B023
                lambda: run(asked, names),  # noqa: B023
                7 if full else 3,
            )
            differ = sum(a != b for a, b in zip(ours, run(asked, names), strict=True))
            table.append({"prompts": size, "against": other, **pairs.row(), "differ": differ})
        pairs = routing(sides, prompts, size, 31 if full else 15)
        table.append({"prompts": size, "against": "without routing", **pairs.row(), "differ": 0})
    notes = [
        f"nano, float32, {ADAPTERS} adapters, {NEW_TOKENS} tokens for every prompt; ratio: the "
        "other side's time over the mixed pass's. differ: answers that are not the same.",
    ]
    publish("inference", "Prompts that use eight adapters", table, notes)


if __name__ == "__main__":
    main()
