"""What a checkpoint holds besides arrays, and whether the configuration is still the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fedrouter.config import ResolvedConfig, config_table
from fedrouter.config.differences import differences
from fedrouter.errors import CheckpointError, ConfigError, printable
from fedrouter.progress import Progress
from fedrouter.server.engine import Traffic
from fedrouter.server.resource_usage import ResourceUsage
from fedrouter.storage.checkpoints import Checkpoint

# Keys that may be edited before a run is resumed. The base model and the data are recognized by
# their fingerprints; the others change no result beyond rounding.
MAY_CHANGE = {
    "model.name",
    "data.train",
    "data.test",
    "tracking",
    "engine.name",
    "engine.device",
    "engine.fuse",
    "federation.wait_s",
    "federation.timeout_s",
}


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint holds besides arrays.

    Attributes:
        state: the JSON of the server's state.
        data: fingerprint of the data; "" if the server does not have them.
        config: the run's configuration.
        costs: the resources used so far.
        traffic: bytes sent and received so far.
        simulated_s: simulated seconds so far; None: time is not simulated.
    """

    state: dict[str, Any]
    data: str
    config: dict[str, Any]
    costs: ResourceUsage
    traffic: Traffic
    simulated_s: float | None = None


@cache
def _adapter() -> TypeAdapter[CheckpointMeta]:
    return TypeAdapter(CheckpointMeta)


def read_meta(checkpoint: Checkpoint, run: Path) -> CheckpointMeta:
    """The content of a checkpoint besides arrays, its types checked.

    Args:
        checkpoint: the checkpoint.
        run: the run folder, for messages.

    Raises:
        CheckpointError: another version of fedrouter wrote it.
    """
    try:
        return _adapter().validate_python(checkpoint.meta)
    except ValueError as error:
        raise other_version(checkpoint, run, error) from None


def other_version(checkpoint: Checkpoint, run: Path, error: ValueError) -> CheckpointError:
    """The error for a checkpoint that does not have what this version writes."""
    return CheckpointError(
        f"{run}: round {checkpoint.round} is of another version of fedrouter "
        f"({printable(str(error), 200)}); start a new run"
    )


def check_config(
    run: Path, before: Mapping[str, Any], config: ResolvedConfig, progress: Progress
) -> None:
    """Check that the configuration of a run was not edited since its last checkpoint.

    Args:
        run: the run folder, for messages.
        before: the configuration in the checkpoint.
        config: the one in the folder.
        progress: is told of edited keys on which no result depends.

    Raises:
        ConfigError: a key was edited on which results depend; the message names all of them.
    """
    found = differences(before, config_table(config))
    fatal = [text for key, text in found.items() if key not in MAY_CHANGE]
    if fatal:
        raise ConfigError(
            f"{run} was run with {'; '.join(fatal)}; set it back in config.toml, or start a new run"
        )
    for text in found.values():
        progress.message(f"changed since the run began: {text}")
