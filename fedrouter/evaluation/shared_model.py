"""What clients and runs in one process share: the base model, and what was computed with it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch

from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.config import ModelConfig
from fedrouter.data.rows import Row
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.evaluation.scoring import EvalItem, EvalResult, examine
from fedrouter.model.base_model import BaseModel
from fedrouter.model.prompt_format import Example
from fedrouter.routing.types import AdapterMixture
from fedrouter.seeding import derive_seed
from fedrouter.types import AdapterWeights


class SharedModel:
    """A base model with caches by content: tokenised rows, and scored answers.

    Clients that share test rows and adapters ask the same questions; runs that are compared ask the
    same of the base model. (Embeddings are cached in the base model itself.)
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._examples: dict[Row, Example] = {}
        self._answers: dict[tuple[LoraSpec, int, EvalItem], EvalResult] = {}
        self._initial: dict[tuple[LoraSpec, int], AdapterWeights] = {}

    @classmethod
    def load(cls, config: ModelConfig, device: str = "auto") -> "SharedModel":
        """Load the base model; as `BaseModel.load`."""
        return cls(BaseModel.load(config, device))

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """The rows as token ids, each tokenised once."""
        new = [row for row in dict.fromkeys(rows) if row not in self._examples]
        self._examples.update(zip(new, self.base.prompts.examples(new), strict=True))
        return [self._examples[row] for row in rows]

    def initial(self, spec: LoraSpec, seed: int) -> AdapterWeights:
        """The adapter that all adapters of a run begin as; each client can draw it for itself."""
        if (spec, seed) not in self._initial:
            draws = torch.Generator().manual_seed(derive_seed(seed, "adapter"))
            self._initial[spec, seed] = initial_weights(self.base.model, spec, draws)
        return self._initial[spec, seed]

    def answers(
        self,
        spec: LoraSpec,
        adapters: Mapping[str, AdapterWeights],
        questions: Sequence[EvalItem],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> list[EvalResult]:
        """The scored answer to each question; one that was asked before costs nothing.

        Args:
            spec: the adapters' shape.
            adapters: by the names that the questions use.
            questions: test rows and whom they are put to.
            max_new_tokens: length of a response at most.
            progress: called with the number of questions answered since its last call.
        """
        digests = {name: _digest(weights) for name, weights in adapters.items()}
        by_digest = {digests[name]: weights for name, weights in adapters.items()}
        asked = [EvalItem(q.row, _renamed(q.mixture, digests)) for q in questions]
        new = [q for q in dict.fromkeys(asked) if (spec, max_new_tokens, q) not in self._answers]
        progress(len(asked) - len(new))
        if new:
            with MultiAdapterModel(self.base, spec, by_digest) as multi_adapter:
                found = examine(multi_adapter, new, max_new_tokens, progress)
            self._answers.update({(spec, max_new_tokens, q): a for q, a in found.items()})
        return [self._answers[spec, max_new_tokens, question] for question in asked]


def _renamed(mixture: AdapterMixture, names: Mapping[str, str]) -> AdapterMixture:
    return tuple((names[name], weight) for name, weight in mixture)


def _digest(weights: AdapterWeights) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
