"""A base model's files as a transformers model and tokenizer, refused where they do not fit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from fedrouter.config import ModelConfig
from fedrouter.errors import OUT_OF_MEMORY, ConfigError, ModelError, is_out_of_memory
from fedrouter.model.checks import check_complete
from fedrouter.model.quantization import quantization_options
from fedrouter.model.source import Source, find_source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NO_TOKENIZER = (
    "has no tokenizer; put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside "
    "the weights"
)


def load_pretrained(
    config: ModelConfig, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """The model, in CPU memory, its tokenizer, and what a user should know, if anything.

    Args:
        config: the `[model]` section.
        device: where the model will be, on which its dtype depends.

    Raises:
        ModelError: there is no such model, weights are missing, or it has no tokenizer.
        MissingExtraError: it is to be quantized, and bitsandbytes is not installed.
        ConfigError: it cannot be quantized on this machine.
    """
    dtype = DTYPES.get(config.dtype, torch.float32 if device.type == "cpu" else torch.bfloat16)
    options = quantization_options(config.quantization, dtype, device)
    with _quiet():
        source = find_source(config.name)
        try:
            tokenizer, (model, info) = _from_pretrained(source, dtype, options)
        except Exception as error:  # whatever the folder's files, the hub or a library may raise
            raise _unusable(config.name, error) from error
    _check_tokenizer(config.name, tokenizer)
    check_complete(config.name, info)
    return model, tokenizer, source.note


# What transformers' and torch's errors say, and what that means here.
_REASONS = {
    "trust_remote_code": "needs Python code from its folder, which fedrouter never runs; use a "
    "model whose architecture is part of transformers",
    "Weights only load failed": "has weights that hold more than numbers, which fedrouter never "
    "unpickles; save the model as safetensors",
    "backend tokenizer": NO_TOKENIZER,
}


def _unusable(name: str, error: Exception) -> ModelError:
    """The error for files that transformers cannot load."""
    if is_out_of_memory(error):
        return ModelError(f"model.name = {name!r} cannot be loaded: {OUT_OF_MEMORY}")
    for part, reason in _REASONS.items():
        if part in str(error):
            return ModelError(f"model.name = {name!r} {reason}")
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return ModelError(
        f"model.name = {name!r} cannot be loaded as a causal language model ({reason}); give "
        "'nano', a folder with config.json, weights and tokenizer, a GGUF file, or a hub name "
        "that this machine can reach"
    )


def resolve_device(device: str) -> str:
    """The torch device that "auto" stands for on this machine.

    Raises:
        ConfigError: this machine does not have the device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"engine.device = {device!r}: this machine has no such device; use 'auto' or 'cpu'"
        ) from error
    return device


def _from_pretrained(
    source: Source, dtype: torch.dtype, options: Mapping[str, Any]
) -> tuple[Any, Any]:
    """The tokenizer, and the model with the report of its loading. No code of theirs is run.

    Models of texts with images that have no class for texts alone are loaded whole: given no
    image, they are causal language models too.
    """
    where: dict[str, Any] = {"local_files_only": source.local_only, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(source.name, **where)
    config = AutoConfig.from_pretrained(source.name, **where)
    has_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    text_only = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or not has_images
    auto: Any = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    loaded = auto.from_pretrained(
        source.name,
        dtype=dtype,
        use_safetensors=source.safetensors,
        ignore_mismatched_sizes=True,  # so that they are reported
        output_loading_info=True,
        **where,
        **options,
    )
    return tokenizer, loaded


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse the empty tokenizer that transformers makes where there are no files of one."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if not tokenizer.get_vocab().keys() - added:
        raise ModelError(f"model.name = {name!r} {NO_TOKENIZER}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out transformers' progress bars and tables of weights; what matters is raised."""
    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
