"""Base models in GGUF files, converted once into folders that transformers can load."""

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from fedrouter.errors import MissingExtraError, ModelError
from fedrouter.model.checks import check_complete
from fedrouter.storage.atomic import replace_folder

DTYPES = torch.float16, torch.bfloat16, torch.float32  # by size, of what is written


def converted(path: Path) -> Path:
    """The folder of a GGUF file's model, made now unless it was made before.

    Quantised weights are written as the numbers that they stand for, each tensor in the smallest
    dtype that holds them exactly. The folder is in the user's cache (`XDG_CACHE_HOME`, else
    ~/.cache) under the SHA-256 of the file, and may be removed at any time.

    Raises:
        MissingExtraError: the package gguf is not installed.
        ModelError: the file cannot be read, or is of an architecture that transformers does not
            read from GGUF.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / digest
    if not folder.is_dir():
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError(f"model.name = {str(path)!r}", "gguf")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replace_folder(folder) as temporary:
            convert(path, temporary)
    return folder


def cache_folder() -> Path:
    """Where converted models are."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "fedrouter" / "gguf"


def convert(path: Path, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a GGUF file's model and tokenizer into an existing folder, as transformers reads them.

    Args:
        path: the file.
        folder: where to.
        dtype: of all weights; None: for each tensor the smallest that holds its numbers exactly.

    Raises:
        ModelError: as `converted`.
    """
    file: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **file)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent,
            **file,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a damaged file or a library may raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ModelError(
            f"model.name = {str(path)!r} cannot be read as a GGUF model ({reason}); give another "
            "file, or a folder with the model in safetensors"
        ) from error
    model, info = loaded
    check_complete(str(path), info)
    _save(model, folder, dtype)
    tokenizer.save_pretrained(folder)


def _save(model: PreTrainedModel, folder: Path, dtype: torch.dtype | None) -> None:
    """Write the model without its memory of having been quantised, which forbids saving it."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    weights = model.state_dict().items()
    state = {name: _smallest(one) if dtype is None else one.to(dtype) for name, one in weights}
    config.dtype = dtype or config.dtype
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)


def _smallest(tensor: Tensor) -> Tensor:
    """The same numbers in the smallest dtype that holds all of them exactly."""
    if not tensor.is_floating_point():
        return tensor
    tries = (tensor.to(dtype) for dtype in DTYPES)
    return next((one for one in tries if torch.equal(one.to(tensor.dtype), tensor)), tensor)
