"""The base model that the clients and runs of one process share, with caches of its results."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch

from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.config import ModelConfig
from fedrouter.data.rows import Row
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.evaluation.scoring import EvalItem, EvalResult, evaluate_items
from fedrouter.model.base_model import BaseModel
from fedrouter.model.prompt_format import Example
from fedrouter.routing.types import AdapterMixture
from fedrouter.seeding import derive_seed
from fedrouter.types import AdapterWeights


class SharedModel:
    """A base model with caches, keyed by content, of tokenized rows and evaluation results.

    Clients that share test rows and adapters, and runs that are compared on the same base model,
    then evaluate each item once. (Embeddings are cached in the base model itself.)
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._examples: dict[Row, Example] = {}
        self._results: dict[tuple[LoraSpec, int, EvalItem], EvalResult] = {}
        self._initial: dict[tuple[LoraSpec, int], AdapterWeights] = {}

    @classmethod
    def load(cls, config: ModelConfig, device: str = "auto") -> "SharedModel":
        """Load the base model (see `BaseModel.load`)."""
        return cls(BaseModel.load(config, device))

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """The rows as token ids, each tokenized once."""
        new = [row for row in dict.fromkeys(rows) if row not in self._examples]
        self._examples.update(zip(new, self.base.prompts.examples(new), strict=True))
        return [self._examples[row] for row in rows]

    def initial(self, spec: LoraSpec, seed: int) -> AdapterWeights:
        """The initial weights of all adapters of a run, a function of the seed alone."""
        if (spec, seed) not in self._initial:
            draws = torch.Generator().manual_seed(derive_seed(seed, "adapter"))
            self._initial[spec, seed] = initial_weights(self.base.model, spec, draws)
        return self._initial[spec, seed]

    def answers(
        self,
        spec: LoraSpec,
        adapters: Mapping[str, AdapterWeights],
        items: Sequence[EvalItem],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> list[EvalResult]:
        """The result of each item, from the cache where it was computed before.

        Args:
            spec: the shape of the adapters.
            adapters: the weights of all adapters that the items name.
            items: (row, adapter mixture) pairs to evaluate.
            max_new_tokens: the largest number of generated tokens.
            progress: called with the number of items finished since its last call.
        """
        digests = {name: _digest(weights) for name, weights in adapters.items()}
        by_digest = {digests[name]: weights for name, weights in adapters.items()}
        wanted = [EvalItem(item.row, _renamed(item.mixture, digests)) for item in items]
        new = [x for x in dict.fromkeys(wanted) if (spec, max_new_tokens, x) not in self._results]
        progress(len(wanted) - len(new))
        if new:
            with MultiAdapterModel(self.base, spec, by_digest) as multi_adapter:
                results = evaluate_items(multi_adapter, new, max_new_tokens, progress)
            self._results.update({(spec, max_new_tokens, x): r for x, r in results.items()})
        return [self._results[spec, max_new_tokens, item] for item in wanted]


def _renamed(mixture: AdapterMixture, names: Mapping[str, str]) -> AdapterMixture:
    return tuple((names[name], weight) for name, weight in mixture)


def _digest(weights: AdapterWeights) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
