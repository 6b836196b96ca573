"""A run from its configuration to its summary.

Around the round loop `Experiment` puts a base model, data, clients and a run folder, so that a run
killed at any moment goes on from its last finished round.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedrouter.client import Client
from fedrouter.config import Config, dump_config, load_config
from fedrouter.datasets import load_splits
from fedrouter.engines.base import Engine, Traffic
from fedrouter.engines.inprocess import InProcessEngine
from fedrouter.errors import DataError, ModelError
from fedrouter.federation import data_fingerprint, deal, resolve
from fedrouter.lora import LoraSpec, initial_weights, write_adapter
from fedrouter.model import BaseModel
from fedrouter.progress import Progress
from fedrouter.rounds import participants, rounds
from fedrouter.seeding import derive_seed
from fedrouter.store import RunFolder
from fedrouter.strategies import ServerState, make_strategy
from fedrouter.summary import Evaluator


@dataclass
class Costs:
    """What a run cost so far; kept in checkpoints, so that a resumed run counts all of it."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("load", "profile", "train", "aggregate", "evaluate", "total"), 0.0
        )
    )

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase and to the total."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - began)

    def add(self, phase: str, seconds: float) -> None:
        """Add time to a phase and to the total."""
        self.seconds[phase] += seconds
        self.seconds["total"] += seconds


class Experiment:
    """One run: a configuration with its data and base model, executed in a run folder.

    Raises (from the constructor): any FedRouterError about the configuration, the data or the base
    model, before anything is written.
    """

    def __init__(self, config: Config, progress: Progress | None = None) -> None:
        self.progress = progress or Progress()
        self.costs = Costs()
        with self.costs.clock("load"):
            self.splits = load_splits(config.data, config.seed)
            self.data = data_fingerprint(self.splits)
            self.config = resolve(config, self.splits.train)
            self.strategy = make_strategy(self.config)
            self.dealt = deal(self.config, self.splits)
            self.base = BaseModel.load(self.config.model, self.config.engine.device)
            self.spec = LoraSpec.from_config(self.config.adapter).resolved(self.base.model)
            self.base.prompts.check(self.splits.train, "training row")
            self.base.prompts.check(self.splits.test, "test row")

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
        """Everything from the last checkpoint (or the profile) to the summary."""
        engine, evaluator = self._assemble(folder)
        start = self._restore(folder, engine) or self._start(folder, engine)
        self.progress.phase("train", self._tasks_left(start))
        state = start
        for state, record in rounds(self.strategy, engine, start, self.config):
            for phase, seconds in record.seconds.items():
                self.costs.add(phase, seconds)
            folder.append_metrics({**asdict(record), **self._interim(state, evaluator)})
            self._checkpoint(folder, state, engine)
        return self._finish(folder, state, engine, evaluator)

    def _assemble(self, folder: RunFolder) -> tuple[InProcessEngine, Evaluator]:
        """The clients with their folder, the engine that runs them, the evaluator of its states."""
        clients = {
            id: Client(id, rows, base=self.base, config=self.config, folder=folder.path / "clients")
            for id, rows in enumerate(self.dealt)
        }
        engine = InProcessEngine(
            self.base,
            self.spec,
            clients,
            transport=self.config.federation.transport,
            fuse=int(self.config.engine.fuse),
            progress=self.progress.advance,
        )
        evaluator = Evaluator(
            self.config,
            self.base,
            self.spec,
            clients=clients,
            test=self.splits.test,
            progress=self.progress,
        )
        return engine, evaluator

    def _tasks_left(self, state: ServerState) -> int:
        """Number of client tasks from a state to the end of the run."""
        left = range(state.round + 1, self.config.federation.rounds + 1)
        return sum(len(participants(self.config, round)) for round in left)

    def _start(self, folder: RunFolder, engine: InProcessEngine) -> ServerState:
        """Step 0 of the method: every client's profile, and the global tasks."""
        draws = torch.Generator().manual_seed(derive_seed(self.config.seed, "adapter"))
        with folder.writing(), self.costs.clock("profile"):
            self.progress.phase("profile", len(self.splits.train))
            replies = engine.run(self.strategy.profile(list(engine.clients)))
            profiles = [reply.profile for reply in replies if reply.profile is not None]
            initial = initial_weights(self.base.model, self.spec, draws)
            state = self.strategy.init(profiles, initial, self.base.fingerprint)
        self._checkpoint(folder, state, engine)
        return state

    def _restore(self, folder: RunFolder, engine: InProcessEngine) -> ServerState | None:
        """The state of the last undamaged checkpoint; None where there is none yet."""
        checkpoint, warnings = folder.latest_checkpoint()
        for warning in warnings:
            self.progress.message(warning)
        folder.truncate_metrics(0 if checkpoint is None else checkpoint.round)
        if checkpoint is None:
            return None
        meta = checkpoint.meta
        if meta["state"]["base"] != self.base.fingerprint:
            raise ModelError(
                f"{folder.path} was started with another base model than "
                f"{self.config.model.name!r} now is; put back the one it had, or start a new run"
            )
        if meta["data"] != self.data:
            raise DataError(
                f"the data of {folder.path} have changed; put them back, or start a new run"
            )
        load_seconds = self.costs.seconds["load"]
        self.costs = Costs(**meta["costs"])
        self.costs.add("load", load_seconds)
        engine.traffic = Traffic(**meta["traffic"])
        return ServerState.unpack(checkpoint.round, checkpoint.arrays, meta["state"])

    def _checkpoint(self, folder: RunFolder, state: ServerState, engine: Engine) -> None:
        arrays, packed = state.pack()
        meta = {
            "state": packed,
            "data": self.data,
            "costs": asdict(self.costs),
            "traffic": asdict(engine.traffic),
        }
        folder.save_checkpoint(state.round, arrays, meta)

    def _interim(self, state: ServerState, evaluator: Evaluator) -> dict[str, Any]:
        """Evaluation between rounds, where `evaluation.every` asks for it."""
        settings = self.config.evaluation
        last = state.round == self.config.federation.rounds
        if not settings.enabled or not settings.every or last or state.round % settings.every:
            return {}
        with self.costs.clock("evaluate"):
            metrics = evaluator.metrics(state)
        self.progress.phase("train", self._tasks_left(state))
        return {"metrics": metrics}

    def _finish(
        self, folder: RunFolder, state: ServerState, engine: InProcessEngine, evaluator: Evaluator
    ) -> dict[str, Any]:
        """Save the adapters and the router, evaluate them, write the summary."""
        with folder.writing():
            for task, weights in state.adapters.items():
                write_adapter(folder.path / "tasks" / task, weights, self.spec, self.base.name)
            state.router.save(folder.path)
        with self.costs.clock("evaluate"):
            metrics, routing = evaluator.metrics(state), evaluator.routing(state)
        summary = {
            "strategy": self.config.strategy,
            "scenario": self.config.data.scenario,
            "seed": self.config.seed,
            "rounds": state.round,
            "clients": len(engine.clients),
            "tasks": evaluator.tasks(state),
            "metrics": metrics,
            "routing": routing,
            "bytes": asdict(engine.traffic),
            "seconds": {name: round(value, 3) for name, value in self.costs.seconds.items()},
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        folder.write_summary(summary)
        folder.remove_leftovers()
        return summary


def run(config: Config, path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run a configuration in a new folder; returns the summary that it writes there."""
    return Experiment(config, progress).run(path)


def resume(path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Go on with an unfinished run; a finished one gives its summary again."""
    folder = RunFolder.open(path)
    if folder.finished:
        return folder.read_summary()
    return Experiment(load_config(folder.path / "config.toml"), progress).resume(folder)
