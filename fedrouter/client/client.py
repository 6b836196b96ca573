"""All that a client does, next to its data.

Work on a round is split in `prepare` (a task -> train jobs) and `finish` (their results -> the
reply), so that an engine may train the jobs of many clients in one pass in between.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.adapter_choice import AdapterContext, RoutedRows, choose
from fedrouter.client.store import ClientFolder
from fedrouter.config import AUTO, Config
from fedrouter.data.client_data import ClientData
from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.evaluation.metrics import scores_by_label
from fedrouter.evaluation.scoring import EvalItem
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import (
    ClientReply,
    ClientRequest,
    ComparedLosses,
    Comparison,
    EvaluateOrder,
    EvaluationReport,
    LabelScores,
    ProfileOrder,
    Scope,
    TrainOrder,
    Update,
)
from fedrouter.routing.clustering import (
    MERGE_THRESHOLD,
    Clusters,
    cluster,
    group,
    squared_distances,
)
from fedrouter.routing.types import Scatter, TaskGeometry, TaskProfile
from fedrouter.routing.whitening import projection, scatter
from fedrouter.seeding import derive_seed, generator
from fedrouter.training.trainer import TrainJob, TrainResult
from fedrouter.types import AdapterWeights, select_matrices

UNLABELLED_LOCAL_TASKS = 2  # local tasks where neither the configuration nor the rows say
LEAST_GROUPS, MOST_GROUPS = 3, 8  # local tasks to begin with where their number is to be found ...
TRIAL_SAMPLES = 16  # ... one for so many samples
LEAST_SAMPLES = 8  # of a new task
COMPARED_SAMPLES = 32  # on which adapters are compared
TRIED_SAMPLES = 128  # of a client, on which adapters are tried to regroup them ...
CANDIDATES = 3  # ... those of the nearest tasks


@dataclass(frozen=True)
class PreparedTask:
    """A task under way.

    Attributes:
        task: what was asked.
        reply: what is already known of the answer.
        adapters: for each train order, the received adapter that was chosen.
        jobs: for each train order, its job.
    """

    task: ClientRequest
    reply: ClientReply
    adapters: tuple[str | None, ...]
    jobs: tuple[TrainJob, ...] = field(repr=False)


class Client:
    """One client: its rows, its local tasks, its own adapters, its training and evaluation.

    Args:
        id: the client's number, from 0.
        rows: its rows.
        resident: the base model, shared with other clients of this process.
        spec: the adapters' shape.
        config: the run's configuration.
        folder: where clients keep what must outlive the process.
    """

    def __init__(
        self,
        id: int,
        rows: ClientData,
        *,
        shared_model: SharedModel,
        spec: LoraSpec,
        config: Config,
        folder: Path,
    ) -> None:
        self.id = id
        self.rows = rows
        self._shared_model = shared_model
        self._spec = spec
        self._config = config
        self._folder = ClientFolder(folder, id)

    @property
    def base(self) -> BaseModel:
        """The base model."""
        return self._shared_model.base

    def prepare(self, task: ClientRequest) -> PreparedTask:
        """Profile and evaluate, where the task asks for it, and make its train jobs; nothing where
        the local tasks that it is about are those of other rows than the client now has."""
        found = bool(task.compare) or any(o.local_task is not None for o in task.train)
        if found and self._folder.changed(self.rows.train):
            return PreparedTask(task, ClientReply(self.id, task.round, changed=True), (), ())
        context = AdapterContext(
            self._shared_model, self._spec, task, self._folder, self.rows.train, self._config.seed
        )
        reply = ClientReply(
            self.id,
            task.round,
            profile=self._profiled(task.profile, context),
            losses=tuple(self._compared(one, context) for one in task.compare),
            evaluation=None if task.evaluate is None else self._evaluate(task.evaluate, context),
        )
        adapters = tuple(context.lowest_loss(order.adapters) for order in task.train)
        jobs = tuple(
            self._job(task, order, context.assembled(adapter, order.keep))
            for order, adapter in zip(task.train, adapters, strict=True)
        )
        return PreparedTask(task, reply, adapters, jobs)

    def finish(self, work: PreparedTask, results: Sequence[TrainResult]) -> ClientReply:
        """The reply to a task, from the results of its jobs; what is to be kept is kept."""
        if work.reply.changed:
            return work.reply
        updates = []
        trained = zip(work.task.train, work.adapters, results, strict=True)
        for slot, (order, adapter, result) in enumerate(trained):
            if order.keep is not None:
                kept = select_matrices(result.weights, order.keep_parts)
                self._folder.keep(order.keep, work.task.round, kept)
            updates.append(
                Update(
                    slot=slot,
                    adapter=adapter,
                    weights=select_matrices(result.weights, order.send),
                    samples=len(self._samples(order)),
                    loss=result.loss,
                    tokens=result.tokens,
                )
            )
        return replace(work.reply, updates=tuple(updates))

    def _profiled(self, order: ProfileOrder | None, context: AdapterContext) -> TaskProfile | None:
        if order is None:
            return None
        return self._regrouped(order, context) if order.adapters else self.profile(order)

    def profile(self, order: ProfileOrder) -> TaskProfile:
        """Find the local tasks: embed the training prompts, group them, keep the labels here."""
        points = self.base.embed([row.instruction for row in self.rows.train])
        names: tuple[str, ...] = ()
        tasks: tuple[int, ...] = ()
        if order.by_name:
            found, names = self._by_name(points)
        elif order.geometry is None:
            found = self._clustered(points)
        elif order.births:
            found, tasks = self._arrived(points, order.geometry)
        else:
            found, tasks = self._placed(points, order.geometry, order.least)
        self._folder.write_labels(found.labels, self.rows.train)
        return self._described(order, points, found, names=names, tasks=tasks)

    def _described(
        self,
        order: ProfileOrder,
        points: NDArray[np.float32],
        found: Clusters,
        *,
        names: tuple[str, ...] = (),
        tasks: tuple[int, ...] = (),
    ) -> TaskProfile:
        return TaskProfile(
            client=self.id,
            centroids=found.centroids,
            counts=tuple(int(count) for count in found.counts),
            second_moments=tuple(float(spread) for spread in found.second_moments),
            fourth_moments=tuple(float(fourth) for fourth in found.fourth_moments),
            names=names,
            tasks=tasks,
            scatter=self._scatter(points, found.labels) if order.scatter else None,
        )

    def _scatter(self, points: NDArray[np.float32], labels: NDArray[np.int64]) -> Scatter:
        return scatter(points, labels, projection(points.shape[1], self._config.seed))

    def labels(self) -> NDArray[np.int64]:
        """The local task of every training row; raises as `ClientFolder.labels`."""
        return self._folder.labels(self.rows.train)

    @property
    def n_local(self) -> int:
        """How many local tasks there are to be: as configured, else as many as the rows name."""
        told = self._config.clustering.n_local
        if isinstance(told, int):
            return told
        names = {row.task for row in self.rows.train}
        return UNLABELLED_LOCAL_TASKS if None in names else len(names)

    def _clustered(self, points: NDArray[np.float32]) -> Clusters:
        number = self.n_local
        if self._config.clustering.n_local == AUTO:
            number = max(LEAST_GROUPS, min(MOST_GROUPS, len(points) // TRIAL_SAMPLES))
        return cluster(points, number, derive_seed(self._config.seed, "profile", self.id))

    def _by_name(self, points: NDArray[np.float32]) -> tuple[Clusters, tuple[str, ...]]:
        names = [row.task for row in self.rows.train]
        if None in names:
            raise DataError(
                f"the rows of client {self.id} do not name their task, as strategy 'oracle' needs; "
                "set data.columns.task, or choose another strategy"
            )
        ordered = tuple(str(name) for name in dict.fromkeys(names))
        return group(points, np.array([ordered.index(str(name)) for name in names])), ordered

    def _placed(
        self, points: NDArray[np.float32], geometry: TaskGeometry, least: int
    ) -> tuple[Clusters, tuple[int, ...]]:
        """The samples by the nearest global task, among those that the client has enough of."""
        distances = squared_distances(points, geometry.centroids, geometry.space)
        own = self._held(
            np.bincount(distances.argmin(axis=1), minlength=len(geometry.tasks)), least
        )
        nearest = own[distances[:, own].argmin(axis=1)]
        tasks, labels = np.unique(nearest, return_inverse=True)
        squared = distances[np.arange(len(points)), nearest]
        return group(points, labels, squared), tuple(int(task) for task in tasks)

    def _regrouped(self, order: ProfileOrder, context: AdapterContext) -> TaskProfile:
        """Some samples by the task, of the nearest few, whose adapter has the lowest loss.

        The nearest one's counts less by 0.25 of what the best of them gives: a sample leaves its
        nearest task for one whose adapter clearly serves it better. Else samples that only their
        responses tell apart would be parted, and no router sees a response.
        """
        assert order.geometry is not None, "adapters are tried on samples near their tasks"
        geometry, offered = (
            order.geometry,
            [order.geometry.tasks.index(name) for name in order.adapters],
        )
        rows = context.sample("regroup", TRIED_SAMPLES)
        points = self.base.embed([row.instruction for row in rows])
        distances = squared_distances(points, geometry.centroids[offered], geometry.space)
        ranks = distances.argsort(axis=1).argsort(axis=1)
        wanted = np.insert(ranks < CANDIDATES, 0, True, axis=1)
        told = context.losses(rows, (None, *order.adapters), wanted)
        base, losses = told[:, :1], told[:, 1:]
        gain = (base - losses.min(axis=1, keepdims=True)).clip(min=0)
        best = np.where(ranks == 0, losses - MERGE_THRESHOLD * gain, losses).argmin(axis=1)
        tasks, labels = np.unique(best, return_inverse=True)
        found = group(points, labels, distances[np.arange(len(points)), best])
        return self._described(order, points, found, tasks=tuple(offered[task] for task in tasks))

    def _arrived(
        self, points: NDArray[np.float32], geometry: TaskGeometry
    ) -> tuple[Clusters, tuple[int, ...]]:
        """The samples in clusters; those that lie where a task does are of that task, each of the
        others is a new task: -1.

        A cluster of 8 samples or more lies outside where their mean squared distance to the nearest
        task is a deviation above what a task's own prompts have: for a mean of 8, nearly three.
        """
        clusters = self._clustered(points)
        distances = squared_distances(points, geometry.centroids, geometry.space)
        means = np.stack(
            [distances[clusters.labels == j].mean(axis=0) for j in range(len(clusters.counts))]
        )
        nearest = means.argmin(axis=1)
        outside = means.min(axis=1) > geometry.mean + geometry.deviation
        outside &= clusters.counts >= LEAST_SAMPLES
        new = len(geometry.tasks) + np.arange(len(nearest))
        keys, labels = np.unique(
            np.where(outside, new, nearest)[clusters.labels], return_inverse=True
        )
        tasks = np.where(keys < len(geometry.tasks), keys, -1)
        squared = distances[np.arange(len(points)), nearest[clusters.labels]]
        return group(points, labels, squared), tuple(int(task) for task in tasks)

    def _held(self, counts: NDArray[np.int64], least: int) -> NDArray[np.int64]:
        """Of the global tasks, by the client's samples of each, those that it holds: the `n_local`
        most frequent; where that is open, those with enough samples, or an eighth of them;
        at least one."""
        order = np.argsort(-counts, kind="stable")
        number = self.n_local
        if self._config.clustering.n_local == AUTO:
            enough = min(least, counts.sum() / MOST_GROUPS)
            number = max(1, int((counts >= enough).sum()))
        return np.sort(order[:number])

    def _compared(self, asked: Comparison, context: AdapterContext) -> ComparedLosses:
        """Losses on samples of a local task: of the base model, and of some adapters."""
        own = np.flatnonzero(self.labels() == asked.local_task)
        draws = generator(
            self._config.seed, "compare", context.task.round, self.id, asked.local_task
        )
        rows = [self.rows.train[i] for i in draws.permutation(own)[:COMPARED_SAMPLES]]
        adapters = (None, *asked.adapters)
        losses = context.losses(rows, adapters, np.ones((len(rows), len(adapters)), bool))
        base, *others = losses.mean(axis=0).tolist()
        told = dict(zip(asked.adapters, others, strict=True))
        return ComparedLosses(asked.local_task, len(rows), base, told)

    def _evaluate(self, order: EvaluateOrder, context: AdapterContext) -> EvaluationReport:
        """Answer and score the test rows of each scope."""
        widest = self.rows.global_test or self.rows.test
        rows = {"local": self.rows.test, "global": self.rows.global_test, "base": widest}
        return EvaluationReport(
            scores={
                scope: self._scores(order, context, scope, rows[scope])
                for scope in order.scopes
                if rows[scope]
            },
            routed=_contingency(choose(order.serving, context, widest, "global").routed, widest),
            found=self._found(),
        )

    def _scores(
        self, order: EvaluateOrder, context: AdapterContext, scope: Scope, rows: Sequence[Row]
    ) -> dict[str, LabelScores]:
        untuned = RoutedRows({}, [()] * len(rows))
        chosen = untuned if scope == "base" else choose(order.serving, context, rows, scope)
        asked = [EvalItem(row, mixture) for row, mixture in zip(rows, chosen.mixtures, strict=True)]
        limit = self._config.evaluation.max_new_tokens
        answers = self._shared_model.answers(self._spec, chosen.adapters, asked, limit)
        return scores_by_label([row.task or "" for row in rows], [one.scores for one in answers])

    def _found(self) -> tuple[dict[str, int], ...]:
        """For each local task, how many of its training rows name each true task."""
        if not self._folder.profiled or self._folder.changed(self.rows.train):
            return ()
        labels = self.labels()
        counts = [Counter[str]() for _ in range(labels.max() + 1)]
        for label, row in zip(labels, self.rows.train, strict=True):
            counts[label][row.task or ""] += 1
        return tuple(dict(count) for count in counts)

    def _job(self, task: ClientRequest, order: TrainOrder, start: AdapterWeights) -> TrainJob:
        settings = self._config.training
        which = "all" if order.local_task is None else order.local_task
        times = self.n_local if order.local_task is None else 1
        received = task.adapters
        keep = () if order.keep is None else (order.keep,)
        return TrainJob(
            weights=start,
            examples=self._shared_model.examples(
                [self.rows.train[i] for i in self._samples(order)]
            ),
            steps=order.steps * times,
            batch_size=settings.batch_size,
            lr=task.lr,
            max_grad_norm=settings.max_grad_norm,
            seed=derive_seed(self._config.seed, "train", task.round, self.id, which, *keep),
            parts=order.train_parts,
            anchor=None if order.proximal is None else received[order.proximal.toward],
            mu=0.0 if order.proximal is None else order.proximal.mu,
            companion=None if order.companion is None else received[order.companion.adapter],
            share=1.0 if order.companion is None else order.companion.weight,
        )

    def _samples(self, order: TrainOrder) -> NDArray[np.int64]:
        """Indices of the rows that an order trains on."""
        if order.local_task is None:
            return np.arange(len(self.rows.train))
        return np.flatnonzero(self.labels() == order.local_task)


def _contingency(tasks: Sequence[str], rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """task -> label -> number of rows; `tasks` may be empty."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for task, row in zip(tasks, rows, strict=bool(tasks)):
        counts[task][row.task or ""] += 1
    return {task: dict(labels) for task, labels in sorted(counts.items())}
