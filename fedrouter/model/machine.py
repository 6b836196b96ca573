"""The memory that this process may use: that of the machine, or of the container it is in."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
LIMIT_FILES = {"": "memory.max", "memory": "memory.limit_in_bytes"}  # of cgroups version 2 and 1


def machine_bytes() -> int:
    """The memory of the machine or, if it is less, the limit of the process: of its container or
    service (control groups), or `ulimit -d`. It does not depend on what is free."""
    return min(_physical_bytes(), *_process_limits(), *control_group_limits())


def control_group_limits(
    groups: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS
) -> Iterator[int]:
    """The limits of the control groups of this process, and of those that hold them; none where the
    system has no such groups.

    Args:
        groups: the file that names the groups of the process.
        root: where they are mounted.
    """
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controller, path = line.split(":", 2)
            if controller in LIMIT_FILES:
                own = root / controller / path.lstrip("/")
                for folder in (own, *own.parents):  # in a container its own group is the root
                    if folder.is_relative_to(root):
                        yield from _number(folder / LIMIT_FILES[controller])


def _number(path: Path) -> Iterator[int]:
    """The number in a file; nothing if it has none, such as "max"."""
    with suppress(OSError, ValueError):
        yield int(path.read_text())


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return sys.maxsize


def _process_limits() -> Iterator[int]:
    with suppress(ImportError):  # Windows
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        if limit != resource.RLIM_INFINITY:
            yield limit
