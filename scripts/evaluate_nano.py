"""Evaluation of a small base model: separation of tasks by its embeddings, learning of adapters.

    python scripts/evaluate_nano.py [--model DIR] [--corpus DIR] [--flan8 DIR] [--lr RATE]

Prints, as Markdown, bits per byte on the held-out text of the corpus (with --corpus), and then the
scores of embeddings and of adapters on the built-in tasks and (with --flan8) on the flan8 tasks.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from bits_per_byte import bits_per_byte
from nano_corpus import held_out_texts

from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.config import Columns, ModelConfig
from fedrouter.data.builtin import builtin_rows
from fedrouter.data.readers import read_records
from fedrouter.data.row_format import RowFormat
from fedrouter.data.rows import Row
from fedrouter.evaluation.metrics import ari, contingency, mean
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.evaluation.scoring import EvalItem, EvalResult, evaluate_items
from fedrouter.model.base_model import BaseModel
from fedrouter.routing.clustering import cluster
from fedrouter.seeding import derive_seed
from fedrouter.training.trainer import TrainJob, train
from fedrouter.types import AdapterWeights

ROUNDS, STEPS, BATCH_SIZE = 25, 10, 16  # the paper's settings
LR_MIN = 1e-5
MAX_NEW_TOKENS = 48
OPTIONS = "OPTIONS:\n- "
SHARED = "all tasks"  # the adapter that is trained on the rows of every task


def main() -> None:
    """Evaluate one base model."""
    arguments = parse_arguments()
    base = BaseModel.load(ModelConfig(name=arguments.model, dtype=arguments.dtype))
    if arguments.corpus:
        print(prediction_report(base, arguments.corpus), flush=True)
    sets = {"built-in tasks": builtin_rows(seed=arguments.seed)}
    if arguments.flan8:
        layout = RowFormat(Columns())
        train_rows, test_rows = (
            layout.rows(read_records(arguments.flan8 / f"{split}.jsonl"))
            for split in ("train", "test")
        )
        sets["flan8"] = (train_rows, test_rows)
    for name, (train_rows, test_rows) in sets.items():
        print(f"\n## {name}\n\n{embedding_report(base, train_rows, test_rows, arguments.seed)}\n")
        asked = first_of_each(test_rows, arguments.test_rows)
        print(learning_report(base, train_rows, asked, arguments.lr, arguments.seed), flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="nano, or a folder")
    parser.add_argument("--dtype", default="auto", help="as model.dtype of a run")
    parser.add_argument("--corpus", type=Path, help="folder of the texts of pretrain_nano.py")
    parser.add_argument("--flan8", type=Path, help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--lr", type=float, default=5e-4, help="rate of the first round")
    parser.add_argument("--test-rows", type=int, default=100, help="of each task, to answer")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def first_of_each(rows: Sequence[Row], count: int) -> list[Row]:
    """The first `count` rows of each task."""
    return [row for _, own in by_task(rows).items() for row in own[:count]]


def by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each task, in the order in which the tasks first occur."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.task), []).append(row)
    return groups


def prediction_report(base: BaseModel, corpus: Path) -> str:
    """Bits per byte on the text that pretraining holds out."""
    folder = Path(base.model.name_or_path)
    scores = {
        source: bits_per_byte(folder, texts) for source, texts in held_out_texts(corpus).items()
    }
    return "bits per byte: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items())


def embedding_report(
    base: BaseModel, train_rows: Sequence[Row], test_rows: Sequence[Row], seed: int
) -> str:
    """ARI of K-means and accuracy of the nearest true centroid, on raw embeddings."""
    points, questions = (
        base.embed([row.instruction for row in rows]) for rows in (train_rows, test_rows)
    )
    true = np.array([row.task for row in train_rows])
    tasks = sorted(set(true))
    found = cluster(points, len(tasks), seed).labels
    centroids = np.stack([points[true == task].mean(axis=0) for task in tasks])
    distances = ((questions[:, None] - centroids) ** 2).sum(axis=2)
    right = [
        tasks[i] == row.task for i, row in zip(distances.argmin(axis=1), test_rows, strict=True)
    ]
    return (
        f"adjusted Rand index of K-means with {len(tasks)} clusters, "
        f"{len(train_rows)} training prompts: {ari(contingency(found, true)):.3f}; "
        f"nearest true centroid, {len(right)} test prompts: {np.mean(right):.3f}"
    )


def learning_report(
    base: BaseModel, train_rows: Sequence[Row], test_rows: Sequence[Row], lr: float, seed: int
) -> str:
    """Scores of the base, of each task's own adapter and of one adapter for all tasks."""
    spec = LoraSpec().resolved(base.model)
    adapters = trained_adapters(base, spec, {**by_task(train_rows), SHARED: train_rows}, lr, seed)
    questions = {
        "none (base)": [EvalItem(row, ()) for row in test_rows],
        "its own": [EvalItem(row, ((str(row.task), 1.0),)) for row in test_rows],
        "one for all tasks": [EvalItem(row, ((SHARED, 1.0),)) for row in test_rows],
    }
    with MultiAdapterModel(base, spec, adapters) as multi_adapter:
        answers = evaluate_items(
            multi_adapter, [q for asked in questions.values() for q in asked], MAX_NEW_TOKENS
        )
    lines = [
        f"Rate {lr:g}, {len(test_rows)} test rows; loss / ROUGE-1 / exact match, and where the "
        "prompt lists the possible answers, the share of answers that are one of them.\n",
        f"| task | {' | '.join(questions)} |",
        "| --- " * (len(questions) + 1) + "|",
    ]
    for task in by_task(test_rows):
        cells = [
            cell([q for q in asked if q.row.task == task], answers) for asked in questions.values()
        ]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(questions: Sequence[EvalItem], answers: Mapping[EvalItem, EvalResult]) -> str:
    """The scores of one adapter on one task."""
    scores = mean([answers[question].scores for question in questions])
    text = f"{scores['loss']:.2f} / {scores['rouge1']:.2f} / {scores['exact_match']:.2f}"
    valid = share_of_valid_labels(questions, answers)
    return text if valid is None else f"{text}, {valid:.0%} valid"


def share_of_valid_labels(
    questions: Sequence[EvalItem], answers: Mapping[EvalItem, EvalResult]
) -> float | None:
    """The share of answers among the options that the prompt lists; None if it lists none."""
    if not all(OPTIONS in question.row.instruction for question in questions):
        return None
    valid = [
        answers[question].text.strip() in question.row.instruction.split(OPTIONS)[1].split("\n- ")
        for question in questions
    ]
    return float(np.mean(valid))


def trained_adapters(
    base: BaseModel, spec: LoraSpec, groups: Mapping[str, Sequence[Row]], lr: float, seed: int
) -> dict[str, AdapterWeights]:
    """An adapter for each group of rows, trained for `ROUNDS` rounds as in the paper."""
    jobs = {}
    for name, rows in groups.items():
        draws = torch.Generator().manual_seed(derive_seed(seed, "adapter", name))
        weights = initial_weights(base.model, spec, draws)
        jobs[name] = TrainJob(
            weights, base.prompts.examples(rows), STEPS, BATCH_SIZE, lr, max_grad_norm=1.0, seed=0
        )
    for round_number in range(ROUNDS):
        rate = LR_MIN + (lr - LR_MIN) * (1 + cos(pi * round_number / (ROUNDS - 1))) / 2
        due = [
            replace(job, lr=rate, seed=derive_seed(seed, "train", name, round_number))
            for name, job in jobs.items()
        ]
        results = train(base, spec, due, fuse=len(due))
        for (name, job), result in zip(list(jobs.items()), results, strict=True):
            jobs[name] = replace(job, weights=result.weights)
    return {name: job.weights for name, job in jobs.items()}


if __name__ == "__main__":
    main()
