"""The server's state in a checkpoint."""

from pathlib import Path
from typing import Any

from fedrouter.errors import ModelError
from fedrouter.model.base_model import BaseModel
from fedrouter.server.checkpoint_meta import other_version, read_meta
from fedrouter.storage.checkpoints import Checkpoint
from fedrouter.strategies import ServerState, Strategy


def restore_state(
    checkpoint: Checkpoint, strategy: Strategy[Any], base: BaseModel, run: Path
) -> ServerState:
    """The state that a run's server has stored after a round.

    Args:
        checkpoint: the checkpoint.
        strategy: the run's method.
        base: the base model that the state is wanted for.
        run: the run folder, for messages.

    Raises:
        ModelError: the run was started with another base model.
        CheckpointError: another version of fedrouter has written it.
    """
    meta = read_meta(checkpoint, run)
    if meta.state.get("base") != base.fingerprint:
        raise ModelError(
            f"{run} was started with another base model than {base.name!r} now is; put back the "
            "one it had, or start a new run"
        )
    try:
        return strategy.state_type.unpack(checkpoint.arrays, meta.state)
    except ValueError as error:
        raise other_version(checkpoint, run, error) from None
