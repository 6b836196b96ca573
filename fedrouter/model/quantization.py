"""Base models with quantized weights, by bitsandbytes (LLM.int8, 2022, and QLoRA, 2023, both by
Dettmers et al.).

Only the weights of linear layers inside the model's layers are quantized, not embeddings, norms and
the output layer. Adapters act on the outputs of these layers as on others'.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from fedrouter.errors import ConfigError, MissingExtraError

Quantization = Literal["int8", "nf4"]
DEVICES = ("cpu", "cuda")  # on which bitsandbytes has kernels for both


def quantization_options(
    quantization: Quantization | None, dtype: torch.dtype, device: torch.device
) -> Mapping[str, Any]:
    """Options of `from_pretrained` that quantize a model as it is loaded; none for None.

    int8 is used without its exception for outliers, whose columns are chosen over all rows of a
    batch, so that a prompt's result would depend on the prompts beside it.

    Args:
        quantization: as `model.quantization`.
        dtype: of all other weights, and of the products.
        device: where the model will be.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        ConfigError: the device has no kernels.
    """
    if quantization is None:
        return {}
    setting = f"model.quantization = {quantization!r}"
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError(setting, "quantization")
    if device.type not in DEVICES:
        raise ConfigError(
            f"{setting} needs a device of {' or '.join(DEVICES)}, got {device.type!r}; unset it or "
            "set engine.device = 'cpu'"
        )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 warns at every product
    if quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": config, "device_map": {"": device}}


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether some of a model's weights are quantized."""
    return getattr(model, "quantization_method", None) is not None


def may_be_quantized(model: PreTrainedModel, parameter: torch.nn.Parameter) -> bool:
    """Whether quantization replaces a parameter: a matrix that is not of the input or output
    embeddings."""
    embeddings = model.get_input_embeddings(), model.get_output_embeddings()
    kept = any(parameter is layer.weight for layer in embeddings if layer is not None)
    return parameter.dim() == 2 and not kept
