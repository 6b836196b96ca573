"""A whole run, phase by phase, against a loop of Trainer, PEFT and scikit-learn.

The baseline does the same work on the same splits: embed and cluster each client's prompts, cluster
the centroids, train an adapter for each client and task with transformers' ``Trainer`` in three
rounds, average the adapters, route the test prompts, answer and score them. It keeps one base model
loaded, has the same batches in the same order, padded to the batch's longest row, generates in
batches by adapter, and generates no answer twice. LoRA's dropout is off on both sides, so that
their losses can be compared.

``python -m bench.whole_run [--full]``
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from bench.output import publish
from bench.plain import peft_model, put
from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.config import Config, load_config
from fedrouter.config.resolve import resolve
from fedrouter.data.client_data import ClientData, deal
from fedrouter.data.loading import load_splits
from fedrouter.data.rows import Row
from fedrouter.evaluation.scoring import score
from fedrouter.experiment import Experiment
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import pad
from fedrouter.model.prompt_format import Example
from fedrouter.seeding import derive_seed
from fedrouter.strategies import make_strategy
from fedrouter.training.trainer import TrainJob, batches
from fedrouter.types import AdapterWeights, FloatArray

ROWS = 32  # prompts embedded or answered at once by the other side
PHASES = ("load", "profile", "train", "aggregate", "evaluate", "total")


def settings(full: bool) -> Config:
    """8 clients, dual, 3 rounds, 10 steps, batch 16."""
    return load_config(
        None,
        [
            "mode=paper",
            "federation.rounds=3",
            "federation.transport=float32",
            "training.steps=10",
            "training.batch_size=16",
            "training.lr=5e-3",
            "adapter.dropout=0",
            f"evaluation.samples={50 if full else 20}",
            "evaluation.max_new_tokens=32",
        ],
    )


@dataclass
class Outcome:
    """Seconds by phase, the mean training loss of the last round, and ROUGE-1 on all tasks."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    loss: float = 0.0
    rouge1: float = 0.0

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the time spent within the block to a phase and to the total."""
        began = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - began
        self.seconds["total"] += time.perf_counter() - began


def ours(config: Config) -> Outcome:
    """`fedrouter run`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        summary = Experiment(config).run(folder)
        last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    return Outcome(
        summary["seconds"], json.loads(last)["loss"], summary["metrics"]["global"]["rouge1"]
    )


class InOrder(Trainer):
    """A Trainer that keeps the order of the rows, since the batches are given."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)


class Loop:
    """The baseline: a loop of Trainer, PEFT and scikit-learn."""

    def __init__(self, config: Config) -> None:
        self.outcome = Outcome()
        with self.outcome.clock("load"):
            splits = load_splits(config.data, config.seed)
            self.config = resolve(config, {row.task for row in splits.train})
            self.holdings: list[ClientData] = deal(self.config, splits)
            self.base = BaseModel.load(config.model)  # for its tokenization; the model is plain
            source = self.base.model.name_or_path
            logging.disable_progress_bar()
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            self.spec = LoraSpec.from_config(config.adapter).resolved(model)
            draws = torch.Generator().manual_seed(derive_seed(config.seed, "adapter"))
            self.start = initial_weights(model, self.spec, draws)
            self.peft = peft_model(model.requires_grad_(False), self.spec, {"task": self.start})
        self.adapters: dict[int, AdapterWeights] = {}

    def execute(self) -> Outcome:
        """Profile, train and average for three rounds, evaluate."""
        with self.outcome.clock("profile"):
            self.profile()
        for round in range(1, self.config.federation.rounds + 1):
            with self.outcome.clock("train"):
                trained, losses = self.train(round)
            with self.outcome.clock("aggregate"):
                self.average(trained)
        self.outcome.loss = float(np.mean(losses))
        with self.outcome.clock("evaluate"):
            self.outcome.rouge1 = self.evaluate()
        return self.outcome

    def profile(self) -> None:
        """K-means in every client, and of all clients' centroids."""
        seed, n_local = self.config.seed, self.config.clustering.n_local
        self.labels, local = [], []
        for client, holding in enumerate(self.holdings):
            points = self.embed([row.instruction for row in holding.train])
            start = derive_seed(seed, "profile", client) % 2**32
            labels = KMeans(n_local, n_init=10, random_state=start).fit_predict(
                points.astype(np.float64)
            )
            first = list(dict.fromkeys(labels.tolist()))
            self.labels.append(np.array([first.index(label) for label in labels]))
            local += [points[self.labels[-1] == j].mean(0) for j in range(len(first))]
        joined = KMeans(self.config.clustering.n_global, n_init=10, random_state=0).fit(
            np.stack(local)
        )
        self.centroids = joined.cluster_centers_
        self.assignment = joined.labels_.reshape(len(self.holdings), -1)
        self.adapters = dict.fromkeys(range(len(self.centroids)), self.start)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Mean-pooled hidden states, in batches in the order of the texts."""
        vectors = []
        decoder = self.peft.get_base_model().model
        with self.peft.disable_adapter():
            for i in range(0, len(texts), ROWS):
                ids = [self.base.prompts.bare_ids(text) for text in texts[i : i + ROWS]]
                tokens, mask = self.padded(ids, "right")
                hidden = decoder(input_ids=tokens, attention_mask=mask).last_hidden_state
                weights = mask.unsqueeze(-1).float()
                vectors.append(((hidden * weights).sum(1) / weights.sum(1)).numpy())
        return np.concatenate(vectors)

    def train(self, round: int) -> tuple[list[tuple[int, int, AdapterWeights]], list[float]]:
        """One adapter for each client and local task: (task, rows, weights), and the losses."""
        trained, losses = [], []
        for client, holding in enumerate(self.holdings):
            for j, task in enumerate(self.assignment[client]):
                rows = np.flatnonzero(self.labels[client] == j)
                examples = self.base.prompts.examples([holding.train[i] for i in rows])
                job = TrainJob(
                    self.adapters[task],
                    examples,
                    self.config.training.steps,
                    self.config.training.batch_size,
                    make_strategy(self.config).learning_rate(round),
                    self.config.training.max_grad_norm,
                    derive_seed(self.config.seed, "train", round, client, j),
                )
                weights, loss = self.train_one(job)
                trained.append((int(task), len(rows), weights))
                losses.append(loss)
        return trained, losses

    def train_one(self, job: TrainJob) -> tuple[AdapterWeights, float]:
        """Train one adapter with Trainer on the job's batches."""
        put(self.peft, "task", job.weights)
        rows = [example for batch in batches(job) for example in batch]
        arguments = TrainingArguments(
            output_dir="unused",
            max_steps=job.steps,
            per_device_train_batch_size=min(job.batch_size, len(job.examples)),
            learning_rate=job.lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=job.max_grad_norm,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = InOrder(self.peft, arguments, self.collate, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
        state = {
            name.replace(".task.", "."): tensor.detach().numpy().copy()
            for name, tensor in self.peft.named_parameters()
            if "lora_" in name
        }
        return state, loss

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """A batch padded to its longest row; the prompt is masked in the loss."""
        tokens, mask = self.padded([example.input_ids for example in examples], "right")
        labels = tokens.masked_fill(mask == 0, -100)
        for row, example in enumerate(examples):
            labels[row, : example.prompt_length] = -100
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}

    def average(self, trained: Sequence[tuple[int, int, AdapterWeights]]) -> None:
        """The mean adapter of each task, weighted by rows."""
        for task in self.adapters:
            parts = [(rows, weights) for other, rows, weights in trained if other == task]
            total = sum(rows for rows, _ in parts)
            if total:
                self.adapters[task] = {
                    name: sum(rows * weights[name] for rows, weights in parts) / np.float32(total)
                    for name in parts[0][1]
                }

    def evaluate(self) -> float:
        """Loss and ROUGE of every distinct row with the nearest task's adapter, with that of the
        nearest of each client's own tasks, and with the base model; returns the global ROUGE-1."""
        rows = list(self.holdings[0].global_test)
        points = self.embed([row.instruction for row in rows])
        distances = np.square(points[:, None] - self.centroids).sum(-1)
        routed = distances.argmin(1)
        asked = {(i, int(task)) for i, task in enumerate(routed)}
        for holding, tasks in zip(self.holdings, self.assignment, strict=True):
            own = np.array(sorted(set(tasks.tolist())))
            for i in map(rows.index, holding.test):
                asked.add((i, int(own[distances[i, own].argmin()])))
        scores: dict[tuple[int, int], float] = {}
        for task, weights in self.adapters.items():
            put(self.peft, "task", weights)
            chosen = sorted(i for i, other in asked if other == task)
            found = self.answer([rows[i] for i in chosen])
            scores |= {(i, task): one for i, one in zip(chosen, found, strict=True)}
        with self.peft.disable_adapter():
            self.answer(rows)
        return float(np.mean([scores[i, int(task)] for i, task in enumerate(routed)]))

    @torch.no_grad()
    def answer(self, rows: Sequence[Row]) -> list[float]:
        """ROUGE-1 of the rows' answers; their losses are computed too."""
        self.peft.eval()
        scores = []
        limit = GenerationConfig(
            max_new_tokens=self.config.evaluation.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(self.base.prompts.end_ids),
            pad_token_id=self.base.prompts.pad_id,
        )
        for i in range(0, len(rows), ROWS):
            some = rows[i : i + ROWS]
            self.peft(**self.collate(self.base.prompts.examples(some)))
            ids = [self.base.prompts.prompt_ids(row.instruction) for row in some]
            tokens, mask = self.padded(ids, "left")
            output = self.peft.generate(
                input_ids=tokens, attention_mask=mask, generation_config=limit
            )
            texts = [self.base.prompts.decode(out[tokens.shape[1] :].tolist()) for out in output]
            pairs = zip(texts, some, strict=True)
            scores += [score(text, row.response)["rouge1"] for text, row in pairs]
        return scores

    def padded(self, ids: Sequence[Sequence[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows as one padded tensor, and its mask."""
        return pad(ids, self.base.prompts.pad_id, side=side, device=torch.device("cpu"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="two pairs, more test rows")
    full = parser.parse_args().full
    config = settings(full)
    pairs = []
    for repeat in range(2 if full else 1):
        sides = [ours, lambda config: Loop(config).execute()]
        order = (0, 1) if repeat % 2 == 0 else (1, 0)
        found = {side: sides[side](config) for side in order}
        pairs.append((found[0], found[1]))
    rows = []
    for phase in PHASES:
        a = [one.seconds[phase] for one, _ in pairs]
        b = [other.seconds[phase] for _, other in pairs]
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        row = {"phase": phase, "seconds": median(a), "baseline seconds": median(b)}
        rows.append(row | {"ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios)})
    one, other = pairs[0]
    notes = [
        "nano, float32, built-in tasks, dual, 8 clients, 3 rounds, 10 steps, batch 16.",
        f"training loss of the last round: {one.loss:.4f} and {other.loss:.4f}; "
        f"ROUGE-1 on all tasks: {one.rouge1:.3f} and {other.rouge1:.3f}.",
    ]
    publish("whole_run", "A whole run against a loop of Trainer and PEFT", rows, notes)


if __name__ == "__main__":
    main()
