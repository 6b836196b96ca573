"""Attention of a base model in 16 bits on a CPU: computed in float32.

torch's fused kernel is slow there in bfloat16, and plain matrix products keep all attention weights
for the backward pass: with rows of 512 tokens they are most of the memory of a pass. In float32 the
fused kernel keeps queries, keys and values alone. SmolLM2-135M, 2 rows of 512 tokens, forward and
backward on one core of an AMD EPYC (Zen 3): 8.7 s, 34.5 s with plain products (and 1.1 GiB more),
18.3 s with the fused kernel in bfloat16.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_float32"


def use_float32_attention(model: PreTrainedModel) -> None:
    """Let a model that would use torch's fused kernel in 16 bits on a CPU use it in float32."""
    if model.device.type == "cpu" and model.dtype.itemsize == 2 and _is_fused(model):
        model.set_attn_implementation(NAME)


def _is_fused(model: PreTrainedModel) -> bool:
    """Whether the model looks up its attention function by name, and finds torch's kernel."""
    return model._supports_attention_backend and model.config._attn_implementation == "sdpa"


def _float32_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """As transformers' `sdpa_attention_forward`; the output has the query's dtype."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.float()
    output, _ = sdpa_attention_forward(
        module, query.float(), key.float(), value.float(), mask, **options
    )
    return output.to(query.dtype), None


AttentionInterface.register(NAME, _float32_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
