"""Files and folders that are there whole or not at all.

Everything is written under a temporary name in the target's own folder, flushed to the disk and
then renamed. A process that is killed, or a disk that is full, leaves what was there before; a
kill may also leave a hidden ``.NAME.PID.tmp`` beside it, which nobody reads.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing a file that is there.

    Raises:
        OSError: it could not be written; the old file is untouched.
    """
    write_chunks(path, [data])


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` one after another to `path`, replacing a file that is there.

    Raises:
        OSError: they could not be written; the old file is untouched.
    """
    temporary = _sibling(path, "tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON; NaN and infinities, which JSON lacks, are a ValueError."""
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_tensors(
    path: Path,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named arrays, and `metadata` in their header, as a safetensors file.

    The same arrays give the same bytes, except that safetensors orders `metadata` at random where
    it has several entries.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_bytes(path, save(contiguous, dict(metadata) if metadata else None))


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends, and goes if the block fails.

    A folder already at `path` stays until the new one is complete on the disk. A kill between the
    two renames that swap them leaves the old one as ``.NAME.PID.old``.
    """
    temporary, old = _sibling(path, "tmp"), _sibling(path, "old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _sync_tree(temporary)
        _swap(temporary, path, old)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _swap(new: Path, path: Path, old: Path) -> None:
    """Rename `new` to `path`, and what is there to `old`."""
    if not path.exists():
        new.rename(path)
        return
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise


def _sibling(path: Path, suffix: str) -> Path:
    """A hidden name in the same folder, so that a rename never crosses file systems."""
    return path.with_name(f".{path.name}.{os.getpid()}.{suffix}")


def _sync_tree(folder: Path) -> None:
    for entry in folder.rglob("*"):
        _sync(entry)
    _sync(folder)


def _sync(path: Path) -> None:
    """Flush a file's data, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
