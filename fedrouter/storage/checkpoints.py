"""Checkpoints: the state after a round, whole or not at all, verified when read.

::

    checkpoints/round-0007/state.safetensors    named arrays
    checkpoints/round-0007/state.json           format, round, meta and a checksum of everything
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedrouter.errors import CheckpointError
from fedrouter.storage.atomic import replace_folder, write_bytes, write_json
from fedrouter.storage.formats import parse_json

FORMAT = 2
KEPT = 2

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """The state after a round: named arrays and JSON."""

    round: int
    arrays: dict[str, np.ndarray[Any, Any]]
    meta: dict[str, Any]


def save_checkpoint(root: Path, round: int, arrays: Arrays, meta: Mapping[str, Any]) -> None:
    """Store the state after `round` in `root` and delete all but the last two checkpoints.

    `meta` is JSON with text keys and finite numbers.

    Raises:
        OSError: it could not be written; the earlier checkpoints are untouched.
    """
    tensors = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    digest = _digest(tensors, round, meta)
    described = {"format": FORMAT, "round": round, "meta": meta, "sha256": digest}
    root.mkdir(exist_ok=True)
    with replace_folder(root / f"round-{round:04d}") as folder:
        write_bytes(folder / "state.safetensors", tensors)
        write_json(folder / "state.json", described)
    prune(root)


def latest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint (None where there is none yet), and warnings to print.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    warnings: list[str] = []
    for folder in reversed(_finished(root)):
        try:
            return _read(folder), warnings
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            warnings.append(f"{folder} is damaged ({error!r}); trying the one before")
    if warnings:
        raise CheckpointError(
            f"all checkpoints in {root} are damaged; start again with: "
            f"fedrouter run {root.with_name('config.toml')} -o NEW_FOLDER"
        )
    return None, warnings


def newest_stamp(root: Path) -> tuple[object, ...]:
    """What changes when another checkpoint is the newest one, or its files change; cheap to ask."""
    stamps: list[object] = []
    for folder in _finished(root)[-1:]:
        for file in (folder / "state.json", folder / "state.safetensors"):
            with suppress(OSError):  # half a checkpoint, or one that goes at this moment
                status = file.stat()
                stamps.append((str(file), status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def _read(folder: Path) -> Checkpoint:
    """Load and verify; any exception but a CheckpointError means that it is damaged."""
    described = parse_json((folder / "state.json").read_bytes())
    tensors = (folder / "state.safetensors").read_bytes()
    if described["format"] != FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {described['format']!r}, this fedrouter reads "
            f"{FORMAT}; resume it with the version that wrote it"
        )
    round, meta = int(described["round"]), dict(described["meta"])
    if _digest(tensors, round, meta) != described["sha256"]:
        raise ValueError("its checksum does not match")
    return Checkpoint(round, load(tensors), meta)


def _digest(tensors: bytes, round: int, meta: Mapping[str, Any]) -> str:
    """SHA-256 of everything in a checkpoint."""
    described = json.dumps([round, meta], sort_keys=True, allow_nan=False)
    return hashlib.sha256(tensors + described.encode()).hexdigest()


def _finished(root: Path) -> list[Path]:
    """Oldest first; the hidden ones, which a kill left unfinished, are not among them."""
    return sorted(root.glob("round-*"), key=_round)


def _round(folder: Path) -> int:
    number = folder.name.removeprefix("round-")
    return int(number) if number.isdecimal() else -1


def prune(root: Path) -> None:
    """Delete all but the last two checkpoints, and unfinished ones."""
    for folder in [*_finished(root)[:-KEPT], *root.glob(".round-*")]:
        shutil.rmtree(folder)
