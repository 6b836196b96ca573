"""Evaluation of a finished run on given rows: routed adapters against the base model."""

from collections.abc import Sequence
from typing import Any

from fedrouter.data.rows import Row
from fedrouter.evaluation.metrics import contingency, pooled, routing_accuracy, scores_by_label
from fedrouter.evaluation.scoring import EvalItem, evaluate_items
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.progress import Progress


def evaluate_model(model: RoutedModel, rows: Sequence[Row], progress: Progress) -> dict[str, Any]:
    """Score the routed adapters and the base model on rows.

    Args:
        model: the finished run.
        rows: the rows to evaluate on.
        progress: receives the progress.

    Returns:
        As in `summary.json`: `metrics` with `global` (the routed adapters), `base` and `by_task`
        (by true task, or by the task that the router chose if a row names no task), and `routing`
        with `accuracy` (over the rows of tasks that the run was trained on; None if there are none,
        or a row names no task) and `unknown_tasks` (the names of the other rows' tasks).

    Raises:
        DataError: a row is too long for the base model.
        RunError: `router.scope` is "local".
    """
    model.base.prompts.check(rows, "row")
    progress.phase("evaluate", 2 * len(rows))
    routes = model.route_with_mixtures([row.instruction for row in rows])
    tasks = [route.task for route, _ in routes]
    items = {
        "global": [EvalItem(row, mixture) for row, (_, mixture) in zip(rows, routes, strict=True)],
        "base": [EvalItem(row, ()) for row in rows],
    }
    limit = model.config.evaluation.max_new_tokens
    together = [item for one in items.values() for item in one]
    results = evaluate_items(model.multi_adapter, together, limit, progress.advance)
    labels = [row.task or task for row, task in zip(rows, tasks, strict=True)]
    tables = {
        name: scores_by_label(labels, [results[item].scores for item in one])
        for name, one in items.items()
    }
    return {
        "metrics": {
            **{name: pooled(table.values()) for name, table in tables.items()},
            "by_task": {
                label: {name: dict(table[label].scores) for name, table in tables.items()}
                for label in dict.fromkeys(labels)
            },
        },
        "routing": _routing(rows, tasks, model),
    }


def _routing(rows: Sequence[Row], tasks: Sequence[str], model: RoutedModel) -> dict[str, Any]:
    """How many rows were routed to a task whose majority true task is theirs."""
    known = {name for task in model.tasks for name in task["true_tasks"]}
    names = [row.task for row in rows]
    if None in names or not known:
        return {"accuracy": None, "unknown_tasks": []}
    pairs = [(task, name) for task, name in zip(tasks, names, strict=True) if name in known]
    table = contingency([task for task, _ in pairs], [str(name) for _, name in pairs])
    return {
        "accuracy": routing_accuracy(table, model.majority) if pairs else None,
        "unknown_tasks": sorted({str(name) for name in names} - known),
    }
