"""Several adapters on one base model, answering and scoring in batches that mix them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from fedrouter.bank import AdapterBank
from fedrouter.errors import AdapterError
from fedrouter.lora import LoraSpec
from fedrouter.messages import Weights
from fedrouter.model import BaseModel, length_batches
from fedrouter.rows import Row
from fedrouter.training import Batch, row_losses

BASE_SLOT = -1
GENERATE_ROWS = 64  # rows generated at once: all of them wait for the longest response


class Responder:
    """Adapters by task id, on one base model; None in place of an id is the base model alone.

    A context manager: leaving it takes the adapters off the base model.
    """

    def __init__(self, base: BaseModel, spec: LoraSpec, adapters: Mapping[str, Weights]) -> None:
        self.base = base
        self._bank = AdapterBank(base.model, spec, size=len(adapters))
        self._slots: dict[str | None, int] = {None: BASE_SLOT}
        for slot, (task, weights) in enumerate(adapters.items()):
            self._bank.load(slot, weights)
            self._slots[task] = slot

    def __enter__(self) -> "Responder":
        return self

    def __exit__(self, *_: object) -> None:
        self._bank.remove()

    def generate(
        self,
        instructions: Sequence[str],
        tasks: Sequence[str | None],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> list[str]:
        """Greedy responses; instruction i is answered by the adapter of tasks[i].

        Raises:
            AdapterError: an id in `tasks` is unknown.
        """
        prompts = [self.base.prompts.prompt_ids(text) for text in instructions]
        texts = [""] * len(prompts)
        for batch in length_batches([len(ids) for ids in prompts], batch_rows=GENERATE_ROWS):
            with self._bank.active(self._slots_of(tasks, batch)):
                answers = self.base.generate([prompts[i] for i in batch], max_new_tokens)
            for i, text in zip(batch, answers, strict=True):
                texts[i] = text
            progress(len(batch))
        return texts

    @torch.no_grad()
    def losses(self, rows: Sequence[Row], tasks: Sequence[str | None]) -> list[float]:
        """Each row's mean loss over its response tokens, under the adapter of tasks[i]."""
        examples = self.base.prompts.examples(rows)
        losses = np.zeros(len(rows))
        for batch in length_batches([len(example.input_ids) for example in examples]):
            padded = Batch.of(self.base, [examples[i] for i in batch])
            with self._bank.active(self._slots_of(tasks, batch)):
                losses[batch] = row_losses(self.base, padded).cpu().numpy()
        return [float(loss) for loss in losses]

    def _slots_of(self, tasks: Sequence[str | None], batch: Sequence[int]) -> torch.Tensor:
        unknown = {tasks[i] for i in batch} - set(self._slots)
        if unknown:
            known = ", ".join(str(task) for task in self._slots if task is not None)
            raise AdapterError(f"no adapter is called {unknown.pop()!r}; there are: {known}")
        return torch.tensor([self._slots[tasks[i]] for i in batch], device=self.base.device)
