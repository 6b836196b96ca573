"""The files of a deployment, with their contents and modes.

Their texts are in ``assets/deploy/``; ``%{name}`` in a text stands for a value of the `Plan`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from string import Template

from fedrouter.deploy.certificates import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    make_authority,
    make_node_key,
    make_server,
)
from fedrouter.errors import MissingExtraError

PUBLIC, SECRET, SCRIPT = 0o644, 0o600, 0o755
VERSIONS = "versions.json"  # of the packages with which a deployment was made
PACKAGES = ("fedrouter", "flwr")


def versions() -> dict[str, str]:
    """The installed versions of the packages that all machines of a federation have alike.

    Raises:
        MissingExtraError: one is not installed.
    """
    try:
        return {package: metadata.version(package) for package in PACKAGES}
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError("a federation over several machines", "flower") from error


@dataclass(frozen=True)
class Plan:
    """The settings of a deployment.

    Attributes:
        folder: the absolute path of its folder; the operator's connection file refers to it.
        host: the name or IPv4 address under which nodes reach the server.
        port: the port that nodes connect to.
        nodes: the number of nodes.
        direct: whether nodes connect to the SuperLink itself; if not, they connect to a gate that
            forwards only Flower's Fleet API.
    """

    folder: Path
    host: str
    port: int
    nodes: int
    direct: bool

    @property
    def link_port(self) -> int:
        """The port of the SuperLink itself."""
        return self.port if self.direct else self.port + 1

    @property
    def listen(self) -> str:
        """The address that the SuperLink listens on."""
        return "0.0.0.0" if self.direct else "127.0.0.1"

    @property
    def names(self) -> list[str]:
        """The nodes' names, node-1 first."""
        return [f"node-{number}" for number in range(1, self.nodes + 1)]


@dataclass(frozen=True)
class File:
    """A file to write: its path inside the deployment's folder, its content and its mode."""

    path: str
    data: bytes
    mode: int = PUBLIC


def deployment(plan: Plan) -> Iterator[File]:
    """Yield the files of a deployment, with new certificates and keys."""
    authority = make_authority()
    authority_pem = authority.certificate_pem()
    server = make_server(authority, plan.host)
    yield from _written("", ["README.md"], plan)
    yield File("authority/ca.crt", authority_pem)
    yield File("authority/ca.key", authority.key_pem(), SECRET)
    yield File("server/ca.crt", authority_pem)
    yield File("server/server.crt", server.certificate_pem())
    yield File("server/server.key", server.key_pem(), SECRET)
    yield from _written("server", ["superlink.sh", "fedrouter-superlink.service", "run.toml"], plan)
    if not plan.direct:
        yield from _written("server", ["gate.conf", "gate.sh", "fedrouter-gate.service"], plan)
    yield from _shared("server", plan)
    compose = "compose-direct.yaml" if plan.direct else "compose.yaml"
    yield _text(f"server/{compose}", "server/compose.yaml", plan)
    yield File("operator/ca.crt", authority_pem)
    scripts = ["flwr.sh", "register.sh", "run.sh"]
    yield from _written("operator", ["config.toml", *scripts, "app/pyproject.toml"], plan)
    keys = [make_node_key(f"fedrouter {node}") for node in plan.names]
    trusted = b"".join(b"%d %s" % (client, key.public) for client, key in enumerate(keys))
    for client, (node, key) in enumerate(zip(plan.names, keys, strict=True)):
        yield File(f"operator/keys/{node}.pub", key.public)
        yield File(f"{node}/trusted_keys", trusted)
        yield File(f"{node}/ca.crt", authority_pem)
        yield File(f"{node}/node.key", key.private, SECRET)
        yield _text("node/fedrouter-node.service", f"{node}/fedrouter-{node}.service", plan, node)
        yield _text("node/start.sh", f"{node}/start.sh", plan, node)
        yield _text("node/node.toml", f"{node}/node.toml", plan, node, client)
        yield _text("node/compose.yaml", f"{node}/compose.yaml", plan, node)
        yield from _shared(node, plan)


def _shared(folder: str, plan: Plan) -> Iterator[File]:
    """Yield what every machine has: the versions, and the file of its container."""
    yield File(f"{folder}/{VERSIONS}", json.dumps(versions(), indent=2).encode() + b"\n")
    yield _text("Containerfile", f"{folder}/Containerfile", plan)
    yield _text("dockerignore", f"{folder}/.dockerignore", plan)


def _written(folder: str, names: list[str], plan: Plan) -> Iterator[File]:
    """Yield files whose asset has the same path as the file."""
    for name in names:
        path = f"{folder}/{name}" if folder else name
        yield _text(path, path, plan)


def _text(asset: str, path: str, plan: Plan, node: str = "", client: int = 0) -> File:
    """The text of an asset with the plan's values; scripts are executable."""
    source = resources.files("fedrouter") / "assets" / "deploy" / asset
    values = {
        "host": plan.host,
        "port": plan.port,
        "link_port": plan.link_port,
        "listen": plan.listen,
        "nodes": plan.nodes,
        "authority": json.dumps(str(plan.folder / "operator" / "ca.crt"), ensure_ascii=False),
        "node": node,
        "client": client,
        "authority_days": AUTHORITY_DAYS,
        "server_days": SERVER_DAYS,
    }
    text = _Asset(source.read_text(encoding="utf-8")).substitute(values)
    return File(path, text.encode(), SCRIPT if path.endswith(".sh") else PUBLIC)


class _Asset(Template):
    """A template with the delimiter %, since $ belongs to the shell."""

    delimiter = "%"
