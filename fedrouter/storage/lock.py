"""A run folder is written by one process at a time.

The operating system releases the lock of a process that is gone, so no lock is ever stale. Beside
the lock, which stays in the folder, a file says who holds it.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedrouter.errors import RunError, printable
from fedrouter.storage.atomic import write_json

LOCK, HOLDER = ".lock", ".lock.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder.

    Raises:
        RunError: another process holds it; the message names its id and machine.
    """
    lock = FileLock(folder / LOCK, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{folder} is in use by {_holder(folder)}; wait until it ends, or stop it"
        ) from None
    try:
        write_json(folder / HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as it is known."""
    try:
        holder = json.loads((folder / HOLDER).read_bytes()[:1000])
        return f"process {int(holder['pid'])} on {printable(str(holder['host']), 100)}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
