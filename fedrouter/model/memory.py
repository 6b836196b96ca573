"""How many tokens a pass may have, by the memory that a base model takes for each of them.

The numbers depend on the model and on the memory of the machine or container, never on what is
free, so that a repeated run has the same passes. At most one row may exceed them: a batch has at
least one.
"""

import ctypes
import os
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel

from fedrouter.model.batching import BATCH_TOKENS
from fedrouter.model.machine import machine_bytes

GENERATE_TOKENS = 4 * BATCH_TOKENS  # padded prompt tokens in a batch of `generate`
PASS_BYTES = 2**30  # most memory of a pass on a CPU
PASS_SHARE = 4  # on a GPU: one part in PASS_SHARE of its memory
MACHINE_SHARE = 8  # on a small machine with a CPU, of which Python and the model take a half
# Values that a decoder layer computes for each token and keeps for the backward pass, as a multiple
# of the hidden size: 17.3 in nano and 16.1 in SmolLM2-135M, with the adapters' inputs and masks.
LAYER_VALUES = 20


def training_tokens(model: PreTrainedModel, *, checkpointing: bool) -> int:
    """Padded tokens of a pass whose activations are kept for a backward pass.

    Args:
        model: the base model.
        checkpointing: whether only the inputs of layers are kept, and the activations of one layer.
    """
    layers = _layers(model)
    kept = layers + LAYER_VALUES if checkpointing else layers * LAYER_VALUES
    return _tokens(model, kept * _hidden(model) + _vocabulary(model), BATCH_TOKENS)


def scoring_tokens(model: PreTrainedModel) -> int:
    """Padded tokens of a pass whose logits are computed, without gradients."""
    return _tokens(model, LAYER_VALUES * _hidden(model) + _vocabulary(model), BATCH_TOKENS)


def generation_tokens(model: PreTrainedModel) -> int:
    """Padded prompt tokens in a batch that responses are generated for; their keys and values are
    kept."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 1)
    shared = (getattr(config, "num_key_value_heads", None) or heads) / heads  # by groups of queries
    cache = 2 * _layers(model) * round(_hidden(model) * shared)
    return _tokens(model, LAYER_VALUES * _hidden(model) + cache, GENERATE_TOKENS)


def release_memory() -> None:
    """Give freed memory back to the system, if the C library can; it keeps blocks for later use.

    After a training SmolLM2-135M in float32 occupied 1,854 MiB, of which 879 had been freed. The
    next training on nano takes a quarter of a second longer: call it after a whole round.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """The resident memory of this process; 0 where the system does not tell (not Linux)."""
    if sys.platform != "linux":
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _tokens(model: PreTrainedModel, values: int, most: int) -> int:
    """Tokens that fit into the memory of a pass with so many values each; 1 to `most`."""
    return max(1, min(most, _pass_bytes(model.device) // (values * model.dtype.itemsize)))


def _pass_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return min(PASS_BYTES, machine_bytes() // MACHINE_SHARE)
    return int(torch.cuda.get_device_properties(device).total_memory) // PASS_SHARE


def _hidden(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().hidden_size)


def _layers(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def _vocabulary(model: PreTrainedModel) -> int:
    return len(model.get_input_embeddings().get_parameter("weight"))
