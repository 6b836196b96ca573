"""A finished run on rows of one's choice: routed adapters against the base model."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedrouter.evaluation import Answer, Question, examine
from fedrouter.inference import RoutedModel
from fedrouter.metrics import mean, routing_accuracy
from fedrouter.progress import Progress
from fedrouter.rows import Row


def assess(model: RoutedModel, rows: Sequence[Row], progress: Progress) -> dict[str, Any]:
    """Scores of the routed adapters (`global`) and of the base model on `rows`.

    Returns:
        `metrics` with `global`, `base` and `by_task` (by true task, or by the task routed to where
        rows name none), and `routing` with `accuracy` (None where rows name no task), in the shape
        of `summary.json`.
    """
    model.base.prompts.check(rows, "row")
    progress.phase("evaluate", 2 * len(rows))
    points = model.base.embed([row.instruction for row in rows])
    found = model.router.route(points).tasks
    routed = [Question(row, task) for row, task in zip(rows, found, strict=True)]
    untuned = [Question(row, None) for row in rows]
    limit = model.config.evaluation.max_new_tokens
    answers = examine(model.responder, [*routed, *untuned], limit, progress.advance)
    labels = [row.task or task for row, task in zip(rows, found, strict=True)]
    return {
        "metrics": {
            "global": _mean(answers, routed),
            "base": _mean(answers, untuned),
            "by_task": {
                label: {
                    "global": _mean(answers, _of(label, labels, routed)),
                    "base": _mean(answers, _of(label, labels, untuned)),
                }
                for label in dict.fromkeys(labels)
            },
        },
        "routing": {"accuracy": _accuracy(rows, routed, model.majority)},
    }


def _accuracy(
    rows: Sequence[Row], routed: Sequence[Question], majority: Mapping[str, str]
) -> float | None:
    """Share of rows that went to a task standing for their true one."""
    true = [row.task for row in rows if row.task is not None]
    if len(true) < len(rows) or not majority:
        return None
    return routing_accuracy([str(question.task) for question in routed], true, majority)


def _of(label: str, labels: Sequence[str], questions: Sequence[Question]) -> list[Question]:
    return [question for own, question in zip(labels, questions, strict=True) if own == label]


def _mean(answers: Mapping[Question, Answer], questions: Sequence[Question]) -> dict[str, float]:
    return mean([answers[question].scores for question in questions])
