"""Several adapters on one base model, used in batches whose rows use different adapters.

Each row has a *mixture*: the base model alone, one adapter, or a weighted sum of several.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from fedrouter.adapters.bank import NO_ADAPTER, AdapterBank
from fedrouter.adapters.lora import LoraSpec
from fedrouter.data.rows import Row
from fedrouter.errors import AdapterError
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import BATCH_ROWS, length_batches
from fedrouter.model.losses import Batch, row_losses
from fedrouter.model.memory import generation_tokens, scoring_tokens
from fedrouter.model.prompt_format import Conversation
from fedrouter.routing.types import AdapterMixture
from fedrouter.types import AdapterWeights

GENERATE_ROWS = 64  # rows in a batch; the batch ends with its longest response


class MultiAdapterModel:
    """Named adapters on one base model.

    A context manager: leaving it takes the adapters off the base model.

    Args:
        base: the base model.
        spec: the shape of all adapters.
        adapters: the adapters' weights by name.

    Raises:
        AdapterError: the weights do not fit the base model.
    """

    def __init__(
        self, base: BaseModel, spec: LoraSpec, adapters: Mapping[str, AdapterWeights]
    ) -> None:
        self.base = base
        self._bank = AdapterBank(base.model, spec, size=len(adapters))
        self._slots: dict[str, int] = {}
        for slot, (name, weights) in enumerate(adapters.items()):
            self._bank.load(slot, weights)
            self._slots[name] = slot

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names."""
        return tuple(self._slots)

    def __enter__(self) -> "MultiAdapterModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Take the adapters off the base model."""
        self._bank.remove()

    def generate(
        self,
        prompts: Sequence[str | Conversation],
        mixtures: Sequence[AdapterMixture],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> list[str]:
        """Greedy responses, in the order of `prompts`.

        Args:
            prompts: instructions or conversations, without the template.
            mixtures: the mixture of each prompt.
            max_new_tokens: the largest number of generated tokens.
            progress: called with the number of responses finished since its last call.

        Raises:
            AdapterError: a name in `mixtures` is unknown.
            DataError: the base model's chat template refuses a conversation.
        """
        slots, weights = self._mix(mixtures)
        ids = [self.base.prompts.prompt_ids(prompt) for prompt in prompts]
        texts = [""] * len(ids)
        lengths = [len(one) for one in ids]
        rows = GENERATE_ROWS if self.base.masks_padding else 1
        for batch in length_batches(lengths, generation_tokens(self.base.model), rows):
            with self._bank.active(slots[batch], weights[batch]):
                answers = self.base.generate([ids[i] for i in batch], max_new_tokens)
            for i, text in zip(batch, answers, strict=True):
                texts[i] = text
            progress(len(batch))
        return texts

    def active(self, mixtures: Sequence[AdapterMixture]) -> AbstractContextManager[None]:
        """Within the block, row i of every batch that this thread puts to the base model is
        computed with mixtures[i].

        Raises:
            AdapterError: a name in `mixtures` is unknown.
        """
        return self._bank.active(*self._mix(mixtures))

    @torch.no_grad()
    def losses(
        self, rows: Sequence[Row], mixtures: Sequence[AdapterMixture], *, alone: bool = False
    ) -> list[float]:
        """The mean loss over the response tokens of row i under mixtures[i].

        Args:
            rows: the rows.
            mixtures: the mixture of each row.
            alone: give every row a pass of its own, so that its loss does not depend, to the last
                bit, on the other rows.

        Raises:
            AdapterError: a name in `mixtures` is unknown.
        """
        slots, weights = self._mix(mixtures)
        examples = self.base.prompts.examples(rows)
        losses = np.zeros(len(rows))
        lengths = [len(example.input_ids) for example in examples]
        limit = scoring_tokens(self.base.model)
        for batch in length_batches(lengths, limit, 1 if alone else BATCH_ROWS):
            padded = Batch.of(self.base, [examples[i] for i in batch])
            with self._bank.active(slots[batch], weights[batch]):
                losses[batch] = row_losses(self.base, padded).cpu().numpy()
        return [float(loss) for loss in losses]

    def _mix(self, mixtures: Sequence[AdapterMixture]) -> tuple[Tensor, Tensor]:
        """The mixtures as slots and weights for the bank, both of shape (rows, longest mixture)."""
        unknown = {
            name: None for mixture in mixtures for name, _ in mixture if name not in self._slots
        }
        if unknown:
            known = ", ".join(self._slots)
            raise AdapterError(f"no adapter is called {next(iter(unknown))!r}; there are: {known}")
        shape = len(mixtures), max((len(mixture) for mixture in mixtures), default=0)
        slots, weights = torch.full(shape, NO_ADAPTER), torch.zeros(shape)
        for i, mixture in enumerate(mixtures):
            for k, (name, weight) in enumerate(mixture):
                slots[i, k], weights[i, k] = self._slots[name], weight
        return slots, weights
