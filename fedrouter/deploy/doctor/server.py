"""The checks of a server."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fedrouter.config import load_config
from fedrouter.deploy.doctor.certificate import check_authority, check_private, check_server
from fedrouter.deploy.doctor.connection import check_port
from fedrouter.deploy.doctor.finding import Finding, found
from fedrouter.deploy.doctor.software import check_programs, check_versions, model_fingerprint


def examine_server(folder: Path) -> Iterator[Finding]:
    """Check `server/` and its machine."""
    gate = (folder / "gate.sh").exists()
    programs = ["flower-superlink", "flwr", *(["nginx"] if gate else [])]
    checks = {
        "versions": partial(check_versions, folder),
        "programs": partial(check_programs, programs),
        "authority": partial(check_authority, folder / "ca.crt"),
        "certificate": partial(check_server, folder),
        "key": partial(check_private, folder / "server.key"),
        "port": partial(_ports, folder, gate),
        "run.toml": partial(_configuration, folder),
        "model": partial(_model, folder),
    }
    for name, check in checks.items():
        yield from found(name, check)


def _ports(folder: Path, gate: bool) -> Iterator[Finding]:
    """The ports in the start scripts."""
    scripts = {"superlink.sh": (r"--port (\d+)", "the SuperLink")}
    if gate:
        scripts["gate.conf"] = (r"listen (\d+)", "the gate, for nodes")
    for name, (pattern, what) in scripts.items():
        port = re.search(pattern, (folder / name).read_text(encoding="utf-8"))
        if port is None:
            yield Finding("port", f"{name} names no port", "put back the file of the deployment")
        else:
            yield from check_port(int(port[1]), folder / "ca.crt", what)


def _configuration(folder: Path) -> Iterator[Finding]:
    federation = load_config(folder / "run.toml").federation
    yield Finding("run.toml", f"{federation.clients} clients, {federation.rounds} rounds")


def _model(folder: Path) -> Iterator[Finding]:
    name = load_config(folder / "run.toml").model.name
    here = model_fingerprint(name)
    yield Finding("model", f"{name}; on nodes: fedrouter deploy doctor NODE --fingerprint {here}")
