"""A run on one machine: data, clients and server in one process."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrouter.config import Config, dump_config, load_resolved
from fedrouter.config.resolve import resolve
from fedrouter.data.client_data import data_fingerprint, deal
from fedrouter.data.loading import Splits, load_splits
from fedrouter.errors import ConfigError, MissingExtraError
from fedrouter.model.source import find_folder
from fedrouter.progress import Progress
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import make_strategy, strategy_class
from fedrouter.tracking import check_installed

if TYPE_CHECKING:  # they import torch, which takes seconds: after what needs no model is checked
    from fedrouter.evaluation.shared_model import SharedModel
    from fedrouter.server.engine import Engine

CHECKED_ROWS = 4  # that the base model is tried on before anything is written


class Experiment:
    """One run: a configuration with its data and base model, executed in a run folder.

    Args:
        config: the configuration.
        progress: receives progress callbacks; may be set later.
        shared_model: the base model of `config.model`, if it is already loaded; None: it is loaded.

    Raises:
        FedRouterError: the configuration, the data or the base model cannot be used; nothing has
            been written then.
    """

    def __init__(
        self,
        config: Config,
        progress: Progress | None = None,
        shared_model: "SharedModel | None" = None,
    ) -> None:
        self.progress = progress or Progress()
        began = time.perf_counter()
        check_installed(config.tracking)
        find_folder(config.model.name)
        splits = load_splits(config.data, config.seed)
        self._data = data_fingerprint(splits)
        self.config = resolve(config, {row.task for row in splits.train})
        _check_time(self.config)
        make_strategy(self.config)  # refuses settings that the method cannot work with
        self._dealt = deal(self.config, splits, strategy_class(self.config.strategy).pooled)
        self._load_model(splits, shared_model)
        self._load_seconds = time.perf_counter() - began

    def _load_model(self, splits: Splits, shared_model: "SharedModel | None") -> None:
        """Load the base model unless it is given, and check that it can work with the rows."""
        if shared_model is None:
            self.progress.message(f"loading the base model {self.config.model.name}")
        from fedrouter.adapters.lora import LoraSpec, adapter_layout
        from fedrouter.evaluation.shared_model import SharedModel

        model, device = self.config.model, self.config.engine.device
        self._shared_model = shared_model or SharedModel.load(model, device)
        base = self._shared_model.base
        layout = adapter_layout(base.model, LoraSpec.from_config(self.config.adapter))
        self._spec = layout.spec
        base.prompts.check(splits.train, "training row")
        base.prompts.check(splits.test, "test row")
        base.check_logits(splits.train[:CHECKED_ROWS])
        models = base.note, layout.note, base.prompts.note(splits.train)
        self._notes = *splits.notes, *filter(None, models)

    def run(self, path: Path, *, label: str | None = None) -> dict[str, Any]:
        """Run from the start in a new folder; returns the summary.

        Raises:
            RunError: the folder is not empty. A run with the same `label` is replaced.
        """
        return self._execute(RunFolder.create(path, dump_config(self.config), label=label))

    def resume(self, folder: RunFolder) -> dict[str, Any]:
        """Continue from the last undamaged checkpoint; returns the summary.

        Raises:
            CheckpointError: all checkpoints are damaged.
            ModelError, DataError: the base model or the data differ from those of the run.
        """
        return self._execute(folder)

    def _execute(self, folder: RunFolder) -> dict[str, Any]:
        """Execute the run on the configured engine."""
        for note in self._notes:
            self.progress.message(note)
        engines = {"inprocess": self._in_process, "flower": self._in_flower}
        return engines[self.config.engine.name](folder)

    def _in_process(self, folder: RunFolder) -> dict[str, Any]:
        from fedrouter.client.client import Client
        from fedrouter.engines.in_process import InProcessEngine

        clients = {
            id: Client(
                id,
                rows,
                shared_model=self._shared_model,
                spec=self._spec,
                config=self.config,
                folder=folder.path / "clients",
                rank=self.config.federation.rank(id),
                keep_predictions=self.config.evaluation.predictions,
            )
            for id, rows in enumerate(self._dealt)
        }
        engine = InProcessEngine(
            self._shared_model.base,
            self._spec,
            clients,
            transport=self.config.federation.transport,
            fuse=self.config.engine.fuse,
            initial=self._shared_model.initial(self._spec, self.config.seed),
            checkpointing=self.config.engine.gradient_checkpointing,
            progress=self.progress,
        )
        return self._serve(folder, engine)

    def _in_flower(self, folder: RunFolder) -> dict[str, Any]:
        """Run in Flower's simulation, whose actors are processes on this machine."""
        try:
            from fedrouter.engines.flower.engine import FlowerEngine
            from fedrouter.engines.flower.simulation import simulate
            from fedrouter.server.expected import expected_arrays
        except ImportError as error:
            raise MissingExtraError("engine.name = 'flower'", "flower") from error

        def serve(grid: Any) -> dict[str, Any]:
            engine = FlowerEngine(
                grid,
                self.config,
                expected=expected_arrays(self._shared_model, self._spec, self.config),
                fingerprint=self._shared_model.base.compared_fingerprint(
                    mixed_quantization=self.config.federation.mixed_quantization
                ),
                initial=self._shared_model.initial(self._spec, self.config.seed),
                folder=str((folder.path / "clients").resolve()),
                progress=self.progress.advance,
            )
            return self._serve(folder, engine)

        return simulate(serve, self.config.federation.clients)

    def _serve(self, folder: RunFolder, engine: "Engine") -> dict[str, Any]:
        from fedrouter.engines.devices import SimulatedDevices
        from fedrouter.server.expected import expected_arrays
        from fedrouter.server.resource_usage import ResourceUsage
        from fedrouter.server.server import Server

        if self.config.federation.devices:
            expected = expected_arrays(self._shared_model, self._spec, self.config)
            engine = SimulatedDevices(engine, self.config, expected)
        usage = ResourceUsage()
        usage.add("load", self._load_seconds)
        server = Server(
            self.config,
            self._shared_model,
            self._spec,
            engine,
            costs=usage,
            data=self._data,
            progress=self.progress,
        )
        return server.execute(folder)


def _check_time(config: Config) -> None:
    """Refuse what depends on the clients' time in a run whose clients take none.

    Raises:
        ConfigError: one line that says what gives them time.
    """
    settings = config.federation
    if settings.timed and not settings.devices and config.engine.name == "inprocess":
        raise ConfigError(
            f"{', '.join(settings.timed)}: clients in one process take no time of their own; set "
            "federation.devices to simulate it, or engine.name = 'flower'"
        )


def run(config: Config, path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run a configuration from the start.

    Args:
        config: the configuration.
        path: the run folder: a new or an empty one.
        progress: receives progress callbacks; None: none.

    Returns:
        The contents of `summary.json`, such as `tasks` (the discovered tasks), `metrics` (scores by
        scope, such as `metrics["global"]["rouge1"]`, between 0 and 1), `routing`, `tokens`
        (trained), `bytes` and `seconds`.

    Raises:
        FedRouterError: the configuration, the data, the base model or the folder cannot be used.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from fedrouter import load_config, run
    >>> config = load_config(None, [
    ...     "strategy=fedavg", "federation.clients=2", "federation.rounds=1", "training.steps=1",
    ...     "data.builtin_train=8", "data.builtin_test=2", "evaluation.enabled=false"])
    >>> with TemporaryDirectory() as folder:
    ...     summary = run(config, Path(folder) / "run")
    >>> summary["strategy"], summary["rounds"]
    ('fedavg', 1)
    """
    return Experiment(config, progress).run(path)


def resume(path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Continue an unfinished run from its last finished round; returns the summary.

    The result is that of an uninterrupted run. A finished run is not repeated.

    Args:
        path: the run folder.
        progress: receives progress callbacks; None: none.

    Raises:
        RunError: the folder is not a run folder, or has no undamaged checkpoint.
        DataError, ModelError: the data or the base model differ from those of the run.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from fedrouter import load_config, resume, run
    >>> config = load_config(None, [
    ...     "strategy=local", "federation.clients=2", "federation.rounds=1", "training.steps=1",
    ...     "data.builtin_train=8", "data.builtin_test=2", "evaluation.enabled=false"])
    >>> with TemporaryDirectory() as folder:
    ...     summary = run(config, Path(folder) / "run")
    ...     resume(Path(folder) / "run") == summary
    True
    """
    folder = RunFolder.open(path)
    if folder.finished:
        return folder.read_summary()
    folder.check_local()
    return Experiment(load_resolved(folder.path / "config.toml"), progress).resume(folder)
