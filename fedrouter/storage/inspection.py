"""A look at a run folder before it is used: it may come from elsewhere."""

import os
import stat
from pathlib import Path

from fedrouter.errors import RunError

MAX_TEXT = 256 * 2**20  # bytes of a file that is not of tensors
SPARSE = 2**28  # bytes from which on a file must be stored in good part
STORED = 16  # of so many bytes, at least one
BLOCK = 512  # bytes; the unit of st_blocks


def check_folder(root: Path) -> None:
    """Refuse a folder with links that lead out of it, with anything but files and folders, or with
    files that would fill the memory.

    Raises:
        RunError: one line names the first such entry and what is wrong with it.
    """
    inside = root.resolve()
    for parent, folders, files in os.walk(root):
        for path in (Path(parent) / name for name in (*folders, *files)):
            if fault := _fault(path, inside):
                raise RunError(f"{path} {fault}; remove it, or use another run folder")


def _fault(path: Path, inside: Path) -> str | None:
    """What is wrong with an entry; None if nothing is."""
    if path.is_symlink():
        try:
            if not path.resolve(strict=True).is_relative_to(inside):
                return f"is a link out of {inside}"
        except (OSError, RuntimeError):  # to itself, on some versions of Python
            return "is a link to nothing"
    try:
        info = path.stat()
    except FileNotFoundError:  # a temporary file of a process at work
        return None
    if stat.S_ISDIR(info.st_mode):
        return None
    return _file_fault(info, path.suffix) if stat.S_ISREG(info.st_mode) else "is no file or folder"


def _file_fault(info: os.stat_result, suffix: str) -> str | None:
    """What is wrong with the size of a file."""
    if suffix != ".safetensors" and info.st_size > MAX_TEXT:
        return f"has {info.st_size} bytes, more than {MAX_TEXT}"
    blocks = getattr(info, "st_blocks", None)  # Windows does not say
    if blocks is not None and info.st_size > max(SPARSE, blocks * BLOCK * STORED):
        return f"claims {info.st_size} bytes, of which {blocks * BLOCK} are stored"
    return None
