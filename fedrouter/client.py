"""All that a client does, next to its data.

Work on a round is split in `prepare` (a task -> train jobs) and `finish` (their results -> the
reply), so that an engine may train the jobs of many clients in one pass in between.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedrouter.atomic import write_tensors
from fedrouter.clustering import cluster
from fedrouter.config import Config
from fedrouter.datasets import Splits
from fedrouter.errors import DataError
from fedrouter.messages import (
    ClientReply,
    ClientTask,
    ProfileOrder,
    TaskProfile,
    TrainOrder,
    Update,
)
from fedrouter.model import BaseModel
from fedrouter.prompts import Example
from fedrouter.seeding import derive_seed
from fedrouter.training import TrainJob, TrainResult

UNLABELLED_LOCAL_TASKS = 2  # local tasks where neither the configuration nor the rows say


class Client:
    """One client: its rows, its local tasks, its training.

    Args:
        id: the client's number, from 0.
        rows: its training rows, at least one, and its own test rows.
        base: the resident base model.
        config: the run's configuration.
        folder: where the client keeps its local tasks between processes.
    """

    def __init__(
        self,
        id: int,
        rows: Splits,
        *,
        base: BaseModel,
        config: Config,
        folder: Path,
    ) -> None:
        self.id = id
        self.train = rows.train
        self.test = rows.test
        self._base = base
        self._config = config
        self._path = folder / f"client-{id:03d}.safetensors"

    def profile(
        self, order: ProfileOrder, progress: Callable[[int], None] = lambda _: None
    ) -> TaskProfile:
        """Find the local tasks: embed the training prompts, cluster them, keep the labels here."""
        points = self._base.embed([row.instruction for row in self.train], progress)
        found = cluster(
            points,
            order.n_local or self._distinct_tasks(),
            derive_seed(self._config.seed, "profile", self.id),
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self._path, {"labels": found.labels.astype(np.int64)})
        return TaskProfile(
            client=self.id,
            centroids=found.centroids,
            counts=tuple(int(count) for count in found.counts),
            spreads=tuple(float(spread) for spread in found.spreads),
        )

    def labels(self) -> NDArray[np.int64]:
        """The local task of every training row, as `profile` found and stored it.

        Raises:
            DataError: the client has no (undamaged) profile, or its rows have changed since.
        """
        try:
            labels: NDArray[np.int64] = load_file(self._path)["labels"]
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(
                f"{self._path}: no readable profile of client {self.id}; start a new run"
            ) from error
        if labels.shape != (len(self.train),):
            raise DataError(
                f"client {self.id} was profiled with {len(labels)} samples and now has "
                f"{len(self.train)}; start a new run, or give it the data it had"
            )
        return labels

    def prepare(self, task: ClientTask) -> list[TrainJob]:
        """The train jobs of a task, one for each of its orders."""
        return [self._job(task, order) for order in task.train]

    def finish(self, task: ClientTask, results: Sequence[TrainResult]) -> ClientReply:
        """The reply to a task, from the results of the jobs that `prepare` made for it."""
        updates = [
            Update(
                slot=slot,
                weights=result.weights,
                samples=len(self._samples(order)),
                loss=result.loss,
                tokens=result.tokens,
            )
            for slot, (order, result) in enumerate(zip(task.train, results, strict=True))
        ]
        return ClientReply(self.id, task.round, updates=tuple(updates))

    def _job(self, task: ClientTask, order: TrainOrder) -> TrainJob:
        settings = self._config.training
        which = "all" if order.local_task is None else order.local_task
        return TrainJob(
            weights=task.adapters[order.adapter],
            examples=[self._examples[i] for i in self._samples(order)],
            steps=order.steps,
            batch_size=settings.batch_size,
            lr=task.lr,
            max_grad_norm=settings.max_grad_norm,
            seed=derive_seed(self._config.seed, "train", task.round, self.id, which),
        )

    def _samples(self, order: TrainOrder) -> NDArray[np.int64]:
        """Indices of the rows that an order trains on."""
        if order.local_task is None:
            return np.arange(len(self.train))
        return np.flatnonzero(self.labels() == order.local_task)

    @cached_property
    def _examples(self) -> list[Example]:
        return self._base.prompts.examples(self.train)

    def _distinct_tasks(self) -> int:
        names = {row.task for row in self.train}
        return UNLABELLED_LOCAL_TASKS if None in names else len(names)
