"""A run on one machine: data, clients and server in one process."""

from pathlib import Path
from typing import Any

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client
from fedrouter.config import Config, dump_config, load_resolved
from fedrouter.config.resolve import resolve
from fedrouter.data.client_data import data_fingerprint, deal
from fedrouter.data.loading import load_splits
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.errors import MissingExtraError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.progress import Progress
from fedrouter.server.engine import Engine
from fedrouter.server.server import ResourceUsage, Server
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import make_strategy, strategy_class


class Experiment:
    """One run: a configuration with its data and base model, executed in a run folder.

    Args:
        config: the configuration.
        progress: hears how far the run is; may be set later.
        resident: the base model of `config.model`, where it is loaded already.

    Raises:
        FedRouterError: about the configuration, the data or the base model, before anything is
            written.
    """

    def __init__(
        self,
        config: Config,
        progress: Progress | None = None,
        shared_model: SharedModel | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self._usage = ResourceUsage()
        with self._usage.clock("load"):
            splits = load_splits(config.data, config.seed)
            self._data = data_fingerprint(splits)
            self.config = resolve(config, {row.task for row in splits.train})
            make_strategy(self.config)  # refuses settings that the method cannot work with
            self._dealt = deal(self.config, splits, strategy_class(self.config.strategy).pooled)
            model, device = self.config.model, self.config.engine.device
            self._shared_model = shared_model or SharedModel.load(model, device)
            base = self._shared_model.base
            self._spec = LoraSpec.from_config(self.config.adapter).resolved(base.model)
            base.prompts.check(splits.train, "training row")
            base.prompts.check(splits.test, "test row")

    def run(self, path: Path, *, label: str | None = None) -> dict[str, Any]:
        """Run from the start in a new folder; returns the summary.

        Raises:
            RunError: the folder is in use (a run of the same `label` there is removed first).
        """
        return self._execute(RunFolder.create(path, dump_config(self.config), label=label))

    def resume(self, folder: RunFolder) -> dict[str, Any]:
        """Go on from the last undamaged checkpoint; returns the summary.

        Raises:
            CheckpointError: all checkpoints are damaged.
            ModelError, DataError: the base model or the data are not those of the run.
        """
        return self._execute(folder)

    def _execute(self, folder: RunFolder) -> dict[str, Any]:
        """The run, on the configured engine."""
        engines = {"inprocess": self._in_process, "flower": self._in_flower}
        return engines[self.config.engine.name](folder)

    def _in_process(self, folder: RunFolder) -> dict[str, Any]:
        clients = {
            id: Client(
                id,
                rows,
                shared_model=self._shared_model,
                spec=self._spec,
                config=self.config,
                folder=folder.path / "clients",
            )
            for id, rows in enumerate(self._dealt)
        }
        engine = InProcessEngine(
            self._shared_model.base,
            self._spec,
            clients,
            transport=self.config.federation.transport,
            fuse=self.config.engine.fuse,
            progress=self.progress.advance,
        )
        return self._serve(folder, engine)

    def _in_flower(self, folder: RunFolder) -> dict[str, Any]:
        """The same in Flower's simulation; its actors are processes of this machine."""
        try:
            from fedrouter.engines.flower.engine import FlowerEngine
            from fedrouter.engines.flower.simulation import simulate
        except ImportError as error:
            raise MissingExtraError("engine.name = 'flower'", "flower") from error

        def serve(grid: Any) -> dict[str, Any]:
            engine = FlowerEngine(
                grid,
                self.config,
                fingerprint=self._shared_model.base.fingerprint,
                folder=str((folder.path / "clients").resolve()),
                progress=self.progress.advance,
            )
            return self._serve(folder, engine)

        return simulate(serve, self.config.federation.clients)

    def _serve(self, folder: RunFolder, engine: Engine) -> dict[str, Any]:
        server = Server(
            self.config,
            self._shared_model,
            self._spec,
            engine,
            costs=self._usage,
            data=self._data,
            progress=self.progress,
        )
        return server.execute(folder)


def run(config: Config, path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run a configuration in a new folder; returns the summary that it writes there."""
    return Experiment(config, progress).run(path)


def resume(path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Go on with an unfinished run; a finished one gives its summary again."""
    folder = RunFolder.open(path)
    if folder.finished:
        return folder.read_summary()
    return Experiment(load_resolved(folder.path / "config.toml"), progress).resume(folder)
