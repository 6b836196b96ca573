"""The checks of a node."""

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fedrouter.config import Config
from fedrouter.config.resolve import resolve
from fedrouter.data.loading import load_splits
from fedrouter.deploy.doctor.certificate import check_authority, check_private
from fedrouter.deploy.doctor.connection import check_connection
from fedrouter.deploy.doctor.finding import Finding, found
from fedrouter.deploy.doctor.software import check_programs, check_versions, model_fingerprint
from fedrouter.engines.flower.node_config import node_config, signing_keys
from fedrouter.errors import ConfigError

PATHS = "data", "state-dir", "node-key", "trusted-keys"
RUN = "run"  # `data`: the files are those that a run names


def examine_node(folder: Path, fingerprint: str | None) -> Iterator[Finding]:
    """Check `node-1/` and its machine.

    Args:
        folder: the node's folder.
        fingerprint: that of the server's base model; None: it is not compared.
    """
    checks = {
        "versions": partial(check_versions, folder),
        "programs": partial(check_programs, ["flower-supernode"]),
        "authority": partial(check_authority, folder / "ca.crt"),
        "key": partial(check_private, folder / "node.key"),
        "trusted": partial(_trusted, folder),
        "server": partial(_connection, folder),
        "data": partial(_data, folder),
        "state": partial(_state, folder),
        "model": partial(_model, folder, fingerprint),
    }
    for name, check in checks.items():
        yield from found(name, check)


def _settings(folder: Path) -> Mapping[str, Any]:
    """`node.toml`, with paths as the node finds them: it is started in its folder."""
    path = folder / "node.toml"
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; correct it") from error
    here = {key: str(folder / read[key]) for key in PATHS if read.get(key)}
    if read.get("data") == RUN:
        del here["data"]
    model = read.get("model", "nano")
    return {**read, **here, "model": str(folder / model) if (folder / model).exists() else model}


def _trusted(folder: Path) -> Iterator[Finding]:
    """The key to sign with in secure sums is among the trusted ones; their digest is to be compared
    with that of other nodes."""
    settings = _settings(folder)
    keys = signing_keys(settings)
    if keys is None:
        yield Finding("trusted", "node.toml names no trusted-keys: secure sums are not signed")
        return
    digest = hashlib.sha256(Path(str(settings["trusted-keys"])).read_bytes()).hexdigest()
    text = f"keys of {len(keys.trusted)} clients, this one's among them; SHA-256 {digest[:32]}"
    yield Finding("trusted", f"{text}, the same on all nodes")


def _connection(folder: Path) -> Iterator[Finding]:
    text = (folder / "start.sh").read_text(encoding="utf-8")
    address = re.search(r"--superlink ([^\s:]+):(\d+)", text)
    if address is None:
        remedy = "put back the script of the deployment"
        yield Finding("server", "start.sh names no --superlink HOST:PORT", remedy)
        return
    yield from check_connection(address[1], int(address[2]), folder / "ca.crt")


def _data(folder: Path) -> Iterator[Finding]:
    settings = _settings(folder)
    if settings.get("data") == RUN:
        yield Finding("data", "runs name the files that this node reads")
        return
    config = node_config(resolve(Config(), ()), settings, simulated=False)
    splits = load_splits(config.data, config.seed)
    rows = f"{len(splits.train)} training and {len(splits.test)} test rows"
    yield Finding("data", f"client {settings.get('client-id')}: {rows} in {settings['data']}")


def _state(folder: Path) -> Iterator[Finding]:
    state = Path(_settings(folder).get("state-dir", folder))
    there = next(path for path in (state, *state.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        yield Finding("state", f"{state} can be written")
    else:
        yield Finding("state", f"{state} cannot be written", f"give this user {there}")


def _model(folder: Path, fingerprint: str | None) -> Iterator[Finding]:
    name = str(_settings(folder)["model"])
    here = model_fingerprint(name)
    if fingerprint is None:
        yield Finding("model", f"{name} has fingerprint {here}; the server's is not given")
    elif fingerprint == here:
        yield Finding("model", f"{name} is the server's")
    else:
        yield Finding(
            "model",
            f"{name} has fingerprint {here}, and the server's base model {fingerprint}",
            "copy the server's base model, and name it in node.toml",
        )
