"""The server's state in a checkpoint."""

from pathlib import Path
from typing import Any

from fedrouter.errors import CheckpointError, ModelError
from fedrouter.model.base_model import BaseModel
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
    if checkpoint.meta["state"]["base"] != base.fingerprint:
        raise ModelError(
            f"{run} was started with another base model than {base.name!r} now is; put back the "
            "one it had, or start a new run"
        )
    try:
        return strategy.state_type.unpack(checkpoint.arrays, checkpoint.meta["state"])
    except ValueError as error:
        raise CheckpointError(
            f"{run}: round {checkpoint.round} is of another version of fedrouter ({error}); "
            "start a new run"
        ) from None
