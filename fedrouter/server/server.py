"""The server of a run: from the clients' profiles to the summary, in a run folder.

The server is the same for all engines. After a crash at any moment it continues from the last
finished round.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedrouter.adapters.lora import LoraSpec, write_adapter
from fedrouter.config import ResolvedConfig, config_table
from fedrouter.config.differences import leaves
from fedrouter.errors import DataError, EngineError, TrainingError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.progress import Progress
from fedrouter.protocol.messages import ClientRequest, EvaluationReport, Scope
from fedrouter.routing.types import TaskProfile
from fedrouter.server.checkpoint_meta import CheckpointMeta, check_config, read_meta
from fedrouter.server.engine import Engine, TimedEngine, simulated_seconds
from fedrouter.server.expected import expected_arrays
from fedrouter.server.privacy import privacy_table, privacy_warnings, public_profile
from fedrouter.server.replies import Replies, sample_counts
from fedrouter.server.resource_usage import ResourceUsage, peak_rss_mb
from fedrouter.server.restore import restore_state
from fedrouter.server.rounds import (
    FinishedRound,
    evaluation_is_due,
    replies_to,
    rounds,
    with_evaluation,
)
from fedrouter.server.summary import routing_table, score_table, task_table
from fedrouter.storage.predictions import PREDICTIONS, collect
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import ServerState, Strategy, TaskState, make_strategy
from fedrouter.tracking import Trackers


class Server:
    """The server of one run.

    Args:
        config: the resolved configuration.
        shared_model: the base model.
        spec: rank, alpha and target modules of the adapters.
        engine: runs requests on the clients.
        costs: the resources used before, such as for loading.
        data: fingerprint of the data, which a resumed run checks; "" if the server does not have
            the data.
        progress: receives progress callbacks.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        shared_model: SharedModel,
        spec: LoraSpec,
        engine: Engine,
        *,
        costs: ResourceUsage,
        data: str = "",
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self.strategy: Strategy[Any] = make_strategy(config)
        self.engine = engine
        self._shared_model = shared_model
        self._spec = spec
        self._usage = costs
        self._data = data
        self._progress = progress or Progress()
        self._initial = shared_model.initial(spec, config.seed)
        self._expected = expected_arrays(shared_model, spec, config)

    def execute(self, folder: RunFolder) -> dict[str, Any]:
        """Run from the last checkpoint, or from the profiles, to the end; returns the summary.

        Raises:
            RunError: another process works on the folder.
            CheckpointError: all checkpoints are damaged.
            ConfigError, ModelError, DataError: the configuration, the base model or the data differ
                from those of the run.
            EngineError: no client is online, or none sent a profile.
            TrainingError: no update was usable in any round.
        """
        with folder.locked():
            state = self._restore(folder) or self._start(folder)
            with self._trackers(folder, state.round) as trackers:
                for done in rounds(
                    self.strategy,
                    self.engine,
                    state,
                    self.config,
                    self._expected,
                    progress=self._progress,
                ):
                    trackers.round(self._note(folder, done))
                    state = done.state
                self._require_training(folder, state)
                summary = self._finish(folder, state)
                trackers.finish(summary)
            return summary

    def _trackers(self, folder: RunFolder, round: int) -> Trackers:
        config = dict(leaves(config_table(self.config)))
        warn = self._progress.message
        return Trackers(self.config.tracking, folder.path, config, round, warn)

    def _start(self, folder: RunFolder) -> ServerState:
        """Step 0 of the method: request profiles, and compute the state before the first round."""
        with folder.writing(), self._usage.clock("profile"):
            online = self.engine.online()
            if not online:
                raise EngineError(
                    "no client is online; start some, or give federation.wait_s more time"
                )
            tasks = self.strategy.profile(online)
            if tasks:
                self._progress.phase("profile", len(tasks))
            profiles = self._profiles(tasks)
            if self.strategy.public_profile:
                profiles = iter([public_profile(self._shared_model.base, self.config.model)])
            fingerprint = self._shared_model.base.fingerprint
            state: ServerState = self.strategy.init(profiles, self._initial, fingerprint)
        self._checkpoint(folder, state)
        return state

    def _profiles(self, tasks: Sequence[ClientRequest]) -> Iterator[TaskProfile]:
        """Yield the clients' profiles; raises an EngineError if all of several requests fail."""
        replies = replies_to(self.config, self.engine, tasks, self._expected, {})
        for reply in replies:
            if reply.profile is not None:
                yield reply.profile
        self._report(replies)
        if len({failure.client for failure in replies.failures}) == len(tasks) > 0:
            raise EngineError(f"no client sent a profile; {replies.failures[0].reason}")

    def _restore(self, folder: RunFolder) -> ServerState | None:
        """The state of the last undamaged checkpoint; None if there is no checkpoint yet."""
        checkpoint, warnings = folder.latest_checkpoint()
        for warning in warnings:
            self._progress.message(warning)
        folder.truncate_metrics(0 if checkpoint is None else checkpoint.round)
        if checkpoint is None:
            return None
        lost = checkpoint.round - len(folder.read_metrics())
        if lost > 0:
            self._progress.message(f"metrics.jsonl lacks the records of {lost} finished rounds")
        meta = read_meta(checkpoint, folder.path)
        check_config(folder.path, meta.config, self.config, self._progress)
        state = restore_state(checkpoint, self.strategy, self._shared_model.base, folder.path)
        if meta.data != self._data:
            raise DataError(
                f"the data of {folder.path} have changed; put them back, or start a new run"
            )
        load_seconds = self._usage.seconds["load"]
        self._usage = meta.costs
        self._usage.add("load", load_seconds)
        self.engine.traffic = meta.traffic
        if isinstance(self.engine, TimedEngine):
            self.engine.simulated_s = meta.simulated_s
        return state

    def _note(self, folder: RunFolder, done: FinishedRound) -> dict[str, Any]:
        """Write a finished round's record to `metrics.jsonl`, and its checkpoint; returns the
        record."""
        for phase, seconds in done.record.seconds.items():
            self._usage.add(phase, seconds)
        self._usage.tokens += done.record.tokens
        record = asdict(done.record)
        if done.record.loss is not None:
            self._progress.loss(done.record.loss)
        if evaluation_is_due(self.config, done.state.round - 1):
            metrics = score_table(done.evaluation.values())
            record["evaluation"] = {"round": done.state.round - 1, "metrics": metrics}
        for failure in done.record.failures:
            self._progress.message(
                f"round {done.record.round}, client {failure['client']}: {failure['reason']}"
            )
        folder.append_metrics(record)
        self._checkpoint(folder, done.state)
        return record

    def _require_training(self, folder: RunFolder, state: ServerState) -> None:
        """Refuse to export adapters of a run in which no update was ever used.

        Raises:
            TrainingError: with the last reason for which an update was refused.
        """
        if self._usage.tokens:
            return
        failures = [
            failure for line in folder.read_metrics() for failure in line.get("failures", ())
        ]
        reason = f" (the last reason: {failures[-1]['reason']})" if failures else ""
        raise TrainingError(
            f"nothing was trained: in none of the {state.round} rounds did a client return a "
            f"usable update{reason}; start a new run, with a lower training.lr if updates diverged"
        )

    def _checkpoint(self, folder: RunFolder, state: ServerState) -> None:
        arrays, packed = state.pack()
        meta = CheckpointMeta(
            packed,
            self._data,
            config_table(self.config),
            self._usage,
            self.engine.traffic,
            simulated_seconds(self.engine),
        )
        folder.save_checkpoint(state.round, arrays, asdict(meta))

    def _finish(self, folder: RunFolder, state: ServerState) -> dict[str, Any]:
        """Save the adapters and the router, request their evaluation, and write the summary."""
        with folder.writing():
            self._save(folder, state)
        traffic = asdict(self.engine.traffic)
        history = state.history if isinstance(state, TaskState) else ()
        privacy = privacy_table(self.strategy, state, self._initial)
        with self._usage.clock("evaluate"):
            evaluation = self._evaluate(state)
        with folder.writing():
            if left_out := collect(folder.path):
                self._progress.message(f"{PREDICTIONS} is full; it lacks {left_out} answers")
        metrics = score_table(evaluation.values())
        for warning in privacy_warnings(privacy, metrics):
            self._progress.message(warning)
        summary = {
            "strategy": self.config.strategy,
            "scenario": self.config.data.scenario,
            "seed": self.config.seed,
            "rounds": state.round,
            "clients": self.config.federation.clients,
            "base_fingerprint": state.base,
            "data": self._data,
            "tasks": task_table(state, evaluation),
            "history": [asdict(event) for event in history],
            "metrics": metrics,
            "routing": routing_table(state, evaluation),
            "privacy": privacy,
            "bytes": traffic,
            "simulated_s": simulated_seconds(self.engine),
            "tokens": self._usage.tokens,
            "seconds": {name: round(value, 3) for name, value in self._usage.seconds.items()},
            "peak_rss_mb": peak_rss_mb(),
        }
        folder.write_summary(summary)
        folder.remove_leftovers()
        return summary

    def _save(self, folder: RunFolder, state: ServerState) -> None:
        """Write the router, and the adapters as PEFT folders unless they stay with the clients."""
        if not self.strategy.personalized:
            for name, weights in state.adapters.items():
                whole = {**self._initial, **weights}
                target = folder.path / "tasks" / name
                write_adapter(target, whole, self._spec, self._shared_model.base.name)
        if isinstance(state, TaskState):
            state.router.save(folder.path)

    def _evaluate(self, state: ServerState) -> Mapping[int, EvaluationReport]:
        """Request every client's evaluation of the last state."""
        enabled = self.config.evaluation.enabled
        scopes: tuple[Scope, ...] = ("local", "global", "base") if enabled else ()
        round = state.round + 1
        tasks = [
            with_evaluation(ClientRequest(client, round), self.strategy, state, scopes)
            for client in self.engine.online()
            if not isinstance(state, TaskState) or client in state.assignment
        ]
        self._progress.phase("evaluate", len(tasks))
        counts = sample_counts(state)
        replies = replies_to(self.config, self.engine, tasks, self._expected, counts)
        for _ in replies:
            pass
        self._report(replies)
        return replies.evaluation

    def _report(self, replies: Replies) -> None:
        for failure in replies.failures:
            self._progress.message(f"client {failure.client}: {failure.reason}")
