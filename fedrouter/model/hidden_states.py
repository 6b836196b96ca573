"""The hidden states of a chosen layer; the layers above it are not run."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class _LayerReachedError(Exception):
    """Ends a forward pass at the layer whose output was asked for."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class HiddenStates:
    """Runs a frozen model up to a layer. May be used from any number of threads.

    Attributes:
        depth: the number of layers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._decoder = _decoder(model)
        self.depth = int(model.config.get_text_config(decoder=True).num_hidden_layers)
        self._layers = _layers(model, self.depth)
        self._asked = threading.local()
        self._hooked: set[int] = set()

    def number(self, layer: int | float) -> int:
        """The number of a layer, from 1, that is given by number or as a fraction of the depth; a
        number beyond the last stands for the last."""
        number = round(layer * self.depth) if isinstance(layer, float) else layer
        return min(max(number, 1), self.depth)

    def at(self, number: int, tokens: Tensor, mask: Tensor) -> Tensor:
        """The output of a layer, after the final norm if it is the last.

        Args:
            number: the layer, from 1.
            tokens: int64, shape (rows, length).
            mask: the attention mask, same shape.

        Returns:
            Shape (rows, length, d) in the model's dtype.
        """
        inputs = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
        if number == self.depth:
            last: Tensor = self._decoder(**inputs).last_hidden_state
            return last
        if self._layers is None:
            every = self._decoder(**inputs, output_hidden_states=True).hidden_states
            return torch.as_tensor(every[number])
        self._hook(number)
        with self._ending_at(number):
            try:
                self._decoder(**inputs)
            except _LayerReachedError as reached:
                return reached.hidden
        raise AssertionError("the model has not run the layer")

    def _hook(self, number: int) -> None:
        """Let a layer end the passes of the threads that ask for it."""
        if number in self._hooked or self._layers is None:
            return

        def end(_: nn.Module, __: Any, output: Any) -> None:
            if getattr(self._asked, "number", None) == number:
                raise _LayerReachedError(output[0] if isinstance(output, tuple) else output)

        self._layers[number - 1].register_forward_hook(end)
        self._hooked.add(number)

    @contextmanager
    def _ending_at(self, number: int) -> Iterator[None]:
        self._asked.number = number
        try:
            yield
        finally:
            self._asked.number = None


def _decoder(model: PreTrainedModel) -> Any:
    """The model without its output layer. (Llama 4's `base_model_prefix` is wrong.)"""
    prefix: str = model.base_model_prefix
    found: Any = getattr(model, prefix, None) or getattr(model, "model", None)
    found = found or model.get_decoder()
    return found if found.get_output_embeddings() is None else _decoder(found)


def _layers(model: PreTrainedModel, depth: int) -> nn.ModuleList | None:
    """The decoder's layers; None if the model has no list of them."""
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    return None
