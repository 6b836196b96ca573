"""Where a base model comes from: the name in the configuration -> what transformers loads."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fedrouter.config.resolve import BUILTIN_BASE
from fedrouter.errors import ModelError

HUB_TIMEOUT = 10.0  # seconds that the hub has to say whether it has a model


@dataclass(frozen=True)
class Source:
    """What `from_pretrained` is given.

    Attributes:
        name: a folder or a hub name.
        local_only: whether the hub cannot be reached, so that its files have to be in the cache.
        safetensors: whether there are weights in safetensors files; None: not known.
        note: what a user should know, if anything.
    """

    name: str
    local_only: bool = False
    safetensors: bool | None = None
    note: str | None = None


def find_source(name: str) -> Source:
    """The folder or hub name that `model.name` stands for; a GGUF file is converted first.

    Raises:
        ModelError: it is neither a folder nor a GGUF file nor on the hub, or it is an adapter.
        MissingExtraError: it is a GGUF file and the package gguf is not installed.
    """
    if source := find_folder(name):
        return source
    path = Path(name).expanduser()
    if not path.is_file():
        return _hub(name)
    from fedrouter.model.gguf import converted  # imports torch

    folder = converted(path)
    note = f"{name} was converted for transformers; the result is in {folder}"
    return Source(str(folder), safetensors=True, note=note)


def find_folder(name: str) -> Source | None:
    """The folder that `model.name` stands for; None if it is a GGUF file or a hub name.

    This takes no time and needs no torch, so that a wrong path is refused at once.

    Raises:
        ModelError: it is a path without a base model.
    """
    if name == BUILTIN_BASE:
        return _folder(name, Path(str(resources.files("fedrouter") / "assets" / BUILTIN_BASE)))
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return None
    if path.exists() or _looks_like_a_path(name):
        raise ModelError(
            f"model.name = {name!r} is not a folder or a GGUF file; give 'nano', a folder, "
            "a GGUF file or a hub name"
        )
    return None


def _looks_like_a_path(name: str) -> bool:
    """Whether a name cannot be meant for the hub, whose names are NAME or OWNER/NAME."""
    first, *rest = name.split("/")
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or len(rest) > 1
        or name.lower().endswith((".gguf", ".safetensors", ".bin", "/"))
        or (bool(rest) and Path(first).is_dir())
    )


def _folder(name: str, folder: Path) -> Source:
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise ModelError(f"model.name = {name!r} holds a PEFT adapter; {_advice(adapter)}")
    files = {path.name for path in folder.iterdir()}
    _refuse_only_gguf(name, files, "name the file itself")
    if "config.json" not in files:
        raise ModelError(
            f"model.name = {name!r} is a folder without config.json; give the folder that holds "
            "it, with weights and tokenizer"
        )
    return Source(str(folder), safetensors=any(folder.glob("*.safetensors")) or None)


def _refuse_only_gguf(name: str, files: Collection[str], advice: str) -> None:
    """Refuse a folder or repository whose only model is in GGUF files."""
    gguf = sorted(file for file in files if file.lower().endswith(".gguf"))
    if gguf and "config.json" not in files:
        raise ModelError(f"model.name = {name!r} holds a GGUF file; {advice} ({gguf[0]})")


def _advice(adapter: Path) -> str:
    """What to do with a folder that holds an adapter."""
    try:
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    named = f"its base model, {base!r}," if isinstance(base, str) and base else "its base model"
    return (
        f"name {named} or a folder saved from PeftModel.from_pretrained(base, folder)"
        ".merge_and_unload(), with its tokenizer"
    )


def _hub(name: str) -> Source:
    """A name on the hub, which is asked once: left to themselves, transformers retry for a minute.

    Where it cannot be reached, what was downloaded before is used.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        files = HfApi().model_info(name, timeout=HUB_TIMEOUT).siblings or ()
    except (GatedRepoError, HFValidationError, RepositoryNotFoundError) as error:
        raise _unreachable(name, _first_line(error)) from error
    except HfHubHTTPError:  # a mirror that only serves files
        return Source(name)
    except Exception as error:  # no network, or told not to use it
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return Source(name, local_only=True)
        raise _unreachable(name, f"the hub cannot be reached: {_first_line(error)}") from error
    names = [file.rfilename for file in files]
    _refuse_only_gguf(name, names, "download it and set model.name to its path")
    if "adapter_config.json" in names:
        raise ModelError(
            f"model.name = {name!r} holds a PEFT adapter; {_advice(Path('adapter_config.json'))}"
        )
    return Source(name, safetensors=any(one.endswith(".safetensors") for one in names) or None)


def _unreachable(name: str, reason: str) -> ModelError:
    return ModelError(
        f"model.name = {name!r} is not a folder here and cannot be loaded from the hub ({reason}); "
        "give 'nano', a folder, a GGUF file, or a hub name that this machine can reach"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
