"""A finished run on rows of one's choice: routed adapters against the base model."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedrouter.data.rows import Row
from fedrouter.evaluation.metrics import pooled, routing_accuracy, scores_by_label
from fedrouter.evaluation.scoring import EvalItem, examine
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.progress import Progress


def assess(model: RoutedModel, rows: Sequence[Row], progress: Progress) -> dict[str, Any]:
    """Scores of the routed adapters (`global`) and of the base model on `rows`.

    Returns:
        `metrics` with `global`, `base` and `by_task` (by true task, or by the task routed to where
        rows name none), and `routing` with `accuracy` (None where rows name no task), in the shape
        of `summary.json`.
    """
    model.base.prompts.check(rows, "row")
    progress.phase("evaluate", 2 * len(rows))
    routed = model.routed([row.instruction for row in rows])
    found = [route.task for route, _ in routed]
    contestants = {
        "global": [EvalItem(row, mixture) for row, (_, mixture) in zip(rows, routed, strict=True)],
        "base": [EvalItem(row, ()) for row in rows],
    }
    limit = model.config.evaluation.max_new_tokens
    asked = [question for questions in contestants.values() for question in questions]
    answers = examine(model.multi_adapter, asked, limit, progress.advance)
    labels = [row.task or task for row, task in zip(rows, found, strict=True)]
    tables = {
        name: scores_by_label(labels, [answers[question].scores for question in questions])
        for name, questions in contestants.items()
    }
    return {
        "metrics": {
            **{name: pooled(table.values()) for name, table in tables.items()},
            "by_task": {
                label: {name: dict(table[label].scores) for name, table in tables.items()}
                for label in dict.fromkeys(labels)
            },
        },
        "routing": {"accuracy": _accuracy(rows, found, model.majority)},
    }


def _accuracy(
    rows: Sequence[Row], found: Sequence[str], majority: Mapping[str, str]
) -> float | None:
    """Share of rows that went to a task standing for their true one."""
    true = [row.task for row in rows if row.task is not None]
    if len(true) < len(rows) or not majority:
        return None
    return routing_accuracy(found, true, majority)
