"""A run that is still training, as a model: what its last checkpoint would answer."""

from dataclasses import asdict

from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import ResolvedConfig
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.inference.run_reader import nothing_to_route
from fedrouter.model.base_model import BaseModel
from fedrouter.server.restore import restore_state
from fedrouter.server.summary import task_table
from fedrouter.storage.checkpoints import Checkpoint
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import ServerState, TaskState, make_strategy


def model_after_round(
    run: RunFolder, config: ResolvedConfig, base: BaseModel, checkpoint: Checkpoint
) -> RoutedModel:
    """The adapters and the router of a checkpoint on a base model, which others may share.

    Args:
        run: the run folder.
        config: the run's configuration.
        base: the run's base model.
        checkpoint: the state after the round, from `run.latest_checkpoint`.

    Raises:
        RunError: the adapters of the run's method stay with the clients.
        ModelError: the base model is not the run's.
        CheckpointError: another version of fedrouter has written the checkpoint.
    """
    strategy = make_strategy(config)
    state = restore_state(checkpoint, strategy, base, run.path)
    if strategy.personalized or not (isinstance(state, TaskState) or len(state.adapters) == 1):
        raise nothing_to_route(run, config)
    return RoutedModel(
        config,
        base,
        state.router if isinstance(state, TaskState) else None,
        _adapters(config, base, state),
        tasks=task_table(state, {}),
        history=[asdict(event) for event in state.history] if isinstance(state, TaskState) else [],
        round=state.round,
    )


def _adapters(config: ResolvedConfig, base: BaseModel, state: ServerState) -> MultiAdapterModel:
    """The adapters of a state; matrices that are not shared are those that all began with."""
    spec = LoraSpec.from_config(config.adapter).resolved(base.model)
    initial = SharedModel(base).initial(spec, config.seed)
    whole = {name: {**initial, **weights} for name, weights in state.adapters.items()}
    return MultiAdapterModel(base, spec, whole)
