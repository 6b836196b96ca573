"""What a checkpoint holds besides the state, and whether it is of the run that is resumed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from fedrouter.config import ResolvedConfig, config_table
from fedrouter.config.differences import differences
from fedrouter.errors import CheckpointError, ConfigError, DataError, ModelError, printable
from fedrouter.progress import Progress
from fedrouter.server.engine import Traffic
from fedrouter.server.resource_usage import ResourceUsage
from fedrouter.storage.checkpoints import Checkpoint
from fedrouter.storage.run_folder import RunFolder

# Keys that may be edited before a run is resumed. The base model and the data are recognized by
# their fingerprints; the others change no result beyond rounding.
MAY_CHANGE = {
    "model.name",
    "data.train",
    "data.test",
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
    """

    state: dict[str, Any]
    data: str
    config: dict[str, Any]
    costs: ResourceUsage
    traffic: Traffic


@cache
def _adapter() -> TypeAdapter[CheckpointMeta]:
    return TypeAdapter(CheckpointMeta)


def read_meta(folder: RunFolder, checkpoint: Checkpoint) -> CheckpointMeta:
    """The content of a checkpoint besides arrays, its types checked.

    Raises:
        CheckpointError: another version of fedrouter wrote it.
    """
    try:
        return _adapter().validate_python(checkpoint.meta)
    except ValueError as error:
        raise other_version(folder, checkpoint, error) from None


def other_version(folder: RunFolder, checkpoint: Checkpoint, error: ValueError) -> CheckpointError:
    """The error for a checkpoint that does not have what this version writes."""
    return CheckpointError(
        f"{folder.path}: round {checkpoint.round} is of another version of fedrouter "
        f"({printable(str(error), 200)}); start a new run"
    )


def check_same_run(
    folder: RunFolder,
    meta: CheckpointMeta,
    config: ResolvedConfig,
    *,
    fingerprint: str,
    data: str,
    progress: Progress,
) -> None:
    """Check that a checkpoint is of the run that is resumed.

    Args:
        folder: the run folder.
        meta: of the checkpoint.
        config: the configuration in the folder, which may have been edited.
        fingerprint: the base model's.
        data: the data's; "" if the server does not have them.
        progress: is told of edited keys on which no result depends.

    Raises:
        ConfigError: a key was edited on which results depend; the message names all of them.
        ModelError, DataError: the base model or the data are others.
    """
    _check_config(folder, meta.config, config, progress)
    if meta.state.get("base") != fingerprint:
        raise ModelError(
            f"{folder.path} was started with another base model than {config.model.name!r} now "
            "is; put back the one it had, or start a new run"
        )
    if meta.data != data:
        raise DataError(
            f"the data of {folder.path} have changed; put them back, or start a new run"
        )


def _check_config(
    folder: RunFolder, before: Mapping[str, Any], config: ResolvedConfig, progress: Progress
) -> None:
    found = differences(before, config_table(config))
    fatal = [text for key, text in found.items() if key not in MAY_CHANGE]
    if fatal:
        raise ConfigError(
            f"{folder.path} was run with {'; '.join(fatal)}; set it back in config.toml, or start "
            "a new run"
        )
    for text in found.values():
        progress.message(f"changed since the run began: {text}")
