"""The base model that the clients and runs of one process share, with caches of its results."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch

from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.config import ModelConfig
from fedrouter.data.rows import Row
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.evaluation.recent import RecentEntries
from fedrouter.evaluation.scoring import EvalItem, EvalResult, evaluate_items
from fedrouter.model.base_model import BaseModel
from fedrouter.model.prompt_format import Example
from fedrouter.routing.types import AdapterMixture
from fedrouter.seeding import derive_seed
from fedrouter.types import AdapterWeights

EXAMPLES = 100_000  # tokenized rows that are kept: about 100 MiB where they have 100 tokens
RESULTS = 50_000  # results that are kept, of 1 to 2 KiB each
INITIAL = 4  # initial adapters that are kept, one for each seed and shape


class SharedModel:
    """A base model with caches, keyed by content, of tokenized rows and evaluation results.

    Clients that share test rows and adapters, and runs that are compared on the same base model,
    then evaluate each item once. (Embeddings are cached in the base model itself.) The caches are
    bounded: a comparison may have hundreds of runs, each with adapters of its own.
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._examples = RecentEntries[Row, Example](EXAMPLES)
        self._results = RecentEntries[tuple[LoraSpec, int, EvalItem], EvalResult](RESULTS)
        self._initial = RecentEntries[tuple[LoraSpec, int], AdapterWeights](INITIAL)

    @classmethod
    def load(cls, config: ModelConfig, device: str = "auto") -> "SharedModel":
        """Load the base model (see `BaseModel.load`)."""
        return cls(BaseModel.load(config, device))

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """The rows as token ids, each tokenized once."""
        found = {row: self._examples.get(row) for row in rows}
        new = [row for row, example in found.items() if example is None]
        made = dict(zip(new, self.base.prompts.examples(new), strict=True))
        for row, example in made.items():
            self._examples.put(row, example)
        return [found[row] or made[row] for row in rows]

    def initial(self, spec: LoraSpec, seed: int) -> AdapterWeights:
        """The initial weights of all adapters of a run, a function of the seed alone."""
        weights = self._initial.get((spec, seed))
        if weights is None:
            draws = torch.Generator().manual_seed(derive_seed(seed, "adapter"))
            weights = initial_weights(self.base.model, spec, draws)
            self._initial.put((spec, seed), weights)
        return weights

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
        found = {
            item: self._results.get((spec, max_new_tokens, item)) for item in dict.fromkeys(wanted)
        }
        new = [item for item, result in found.items() if result is None]
        progress(len(wanted) - len(new))
        made: Mapping[EvalItem, EvalResult] = {}
        if new:
            with MultiAdapterModel(self.base, spec, by_digest) as multi_adapter:
                made = evaluate_items(multi_adapter, new, max_new_tokens, progress)
        for item, result in made.items():
            self._results.put((spec, max_new_tokens, item), result)
        return [found[item] or made[item] for item in wanted]


def _renamed(mixture: AdapterMixture, names: Mapping[str, str]) -> AdapterMixture:
    return tuple((names[name], weight) for name, weight in mixture)


def _digest(weights: AdapterWeights) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
