"""Gradient checkpointing: the backward pass computes a decoder layer's activations again.

Only the inputs of the layers are kept, at the cost of a second forward pass. transformers' own
switch acts on models in training mode alone, in which the base model's dropout would be active, so
its layers are wrapped here in torch's `checkpoint`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from fedrouter.adapters.bank import AdapterBank
from fedrouter.errors import ConfigError
from fedrouter.model.base_model import BaseModel
from fedrouter.model.memory import training_tokens


def uses_checkpointing(base: BaseModel, asked: bool | Literal["auto"]) -> bool:
    """Whether activations are computed again.

    Args:
        base: the base model.
        asked: "auto": if the activations of a row of `model.max_length` tokens exceed the memory
            of a pass (see `memory.training_tokens`), and the model supports it.
    """
    if asked != "auto":
        return asked
    fitting = training_tokens(base.model, checkpointing=False)
    return fitting < base.prompts.max_length and bool(_layers(base.model))


@contextmanager
def checkpointed(model: PreTrainedModel, bank: AdapterBank) -> Iterator[None]:
    """Within the block, forward passes with gradients keep the inputs of decoder layers alone.

    Losses and gradients are the same, with the bank's dropout too.

    Raises:
        ConfigError: the model has no layers that transformers marks as fit for this.
    """
    layers = _layers(model)
    if not layers:
        raise ConfigError(
            f"engine.gradient_checkpointing = true: {type(model).__name__} does not support it; "
            "set it to false, and training.batch_size or model.max_length to less"
        )
    for layer in layers:
        layer.forward = _checkpointed(layer.forward, bank)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # what is left is the class's own


def _layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """The layers that transformers marks as fit for gradient checkpointing."""
    return [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]


def _checkpointed(forward: Callable[..., Any], bank: AdapterBank) -> Callable[..., Any]:
    """A layer's forward function under torch's `checkpoint`; it draws no random numbers."""

    def run(*args: Any, **options: Any) -> Any:
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=bank.checkpoint_contexts,
            **options,
        )

    return run
