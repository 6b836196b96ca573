"""The files of a federation over several machines: certificates, keys, start scripts."""

import ipaddress
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fedrouter.errors import DeployError, MissingExtraError
from fedrouter.storage.atomic import replace_folder

if TYPE_CHECKING:
    from fedrouter.deploy.files import File

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LONGEST_NAME = 253


def init_deployment(
    folder: Path, *, nodes: int, host: str, port: int = 8000, direct: bool = False
) -> None:
    """Write a deployment's files into a new or empty folder, atomically.

    Args:
        folder: where to write; only its owner may enter it.
        nodes: the number of nodes, at least 1. Node i is client i - 1.
        host: the name or IPv4 address under which nodes reach the server.
        port: the port that nodes connect to.
        direct: if True, nodes connect to the SuperLink itself, and all of its APIs are open to
            everyone who can reach the port. If False, nodes connect to a gate (nginx) on the
            server, and the SuperLink listens on 127.0.0.1 at the next port.

    Raises:
        DeployError: a value cannot be used, or the folder is not empty.
        MissingExtraError: the extra ``flower`` is not installed.
    """
    _check(folder, nodes, host, port, direct)
    try:
        from fedrouter.deploy.files import Plan, deployment
    except ModuleNotFoundError as error:
        raise MissingExtraError("writing certificates", "flower") from error
    folder = folder.absolute()
    files = list(deployment(Plan(folder, host, port, nodes, direct)))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replace_folder(folder) as new:
            new.chmod(0o700)
            for file in files:
                _write(new, file)
    except OSError as error:
        raise DeployError(f"{folder} cannot be written: {error.strerror or error}") from error


def _check(folder: Path, nodes: int, host: str, port: int, direct: bool) -> None:
    if nodes < 1:
        raise DeployError(f"{nodes} nodes are too few; give at least 1")
    highest = 65535 if direct else 65534  # the SuperLink takes the next one
    if not 1 <= port <= highest:
        raise DeployError(f"port {port} cannot be used; give one from 1 to {highest}")
    if not _is_host(host):
        raise DeployError(
            f"host {host!r} is no name or IPv4 address that nodes can connect to; "
            "give the server's, such as fed.example.org"
        )
    if not str(folder.absolute()).isprintable():
        raise DeployError(f"folder {str(folder)!r} has a name that cannot be written into files")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DeployError(f"{folder} is no folder; name a new or an empty one")
    if folder.exists() and any(folder.iterdir()):
        raise DeployError(f"{folder} is not empty; name a new folder or an empty one")


def _is_host(text: str) -> bool:
    """Whether a text is an IPv4 address or a host name that is valid in URLs and certificates."""
    try:
        return not ipaddress.IPv4Address(text).is_unspecified
    except ValueError:
        pass
    last = text.rpartition(".")[2]
    return len(text) <= _LONGEST_NAME and bool(_NAME.fullmatch(text)) and not last.isdecimal()


def _write(folder: Path, file: "File") -> None:
    """Write a new file that has its mode from the moment it is created."""
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(file.data)
