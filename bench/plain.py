"""The baseline's side of a comparison: models and adapters without fedrouter's kernels."""

from collections.abc import Mapping

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from fedrouter.adapters.lora import LoraSpec
from fedrouter.model import attention
from fedrouter.model.onednn import ConvertedLinear, FrozenLinear
from fedrouter.types import AdapterWeights


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The model as transformers loads it, without fedrouter's kernels."""
    if model.config._attn_implementation == attention.NAME:
        model.set_attn_implementation("sdpa")
    for module in model.modules():
        if type(module) in (FrozenLinear, ConvertedLinear):
            module.__class__ = nn.Linear
    return model


def peft_model(
    model: PreTrainedModel, spec: LoraSpec, adapters: Mapping[str, AdapterWeights]
) -> PeftModel:
    """Wrap the model (in place) in PEFT with named adapters; the first is active."""
    config = spec.peft_config()
    config.inference_mode = False
    wrapped: PeftModel | None = None
    for name, weights in adapters.items():
        if wrapped is None:
            wrapped = get_peft_model(plain(model), config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
        put(wrapped, name, weights)
    assert wrapped is not None, "name at least one adapter"
    return wrapped


def put(wrapped: PeftModel, name: str, weights: AdapterWeights) -> None:
    """Overwrite an adapter's weights."""
    tensors = {tensor: torch.tensor(array) for tensor, array in weights.items()}
    set_peft_model_state_dict(wrapped, tensors, adapter_name=name)
