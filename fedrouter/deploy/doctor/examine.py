"""The checks of a machine of a federation, one after another."""

from collections.abc import Iterator
from pathlib import Path

from fedrouter.deploy.doctor.finding import Finding
from fedrouter.errors import DeployError, MissingExtraError


def examine(folder: Path, fingerprint: str | None = None) -> Iterator[Finding]:
    """Check a server's or a node's folder, and the machine that it is on; changes nothing.

    Args:
        folder: `server/` or `node-1/` of a deployment, or the folder of both, for its server.
        fingerprint: that of the server's base model, for a node; None: it is not compared.

    Raises:
        DeployError: the folder is none of these.
        MissingExtraError: the extra ``flower`` is not installed.
    """
    try:
        from fedrouter.deploy.doctor.node import examine_node
        from fedrouter.deploy.doctor.server import examine_server
    except ModuleNotFoundError as error:
        raise MissingExtraError("fedrouter deploy doctor", "flower") from error
    if (folder / "server" / "superlink.sh").exists():
        folder = folder / "server"
    if (folder / "superlink.sh").exists():
        return examine_server(folder.resolve())
    if (folder / "node.toml").exists():
        return examine_node(folder.resolve(), fingerprint)
    raise DeployError(
        f"{folder} is neither the server's nor a node's folder of a deployment; name one that "
        "`fedrouter deploy init` has written"
    )
