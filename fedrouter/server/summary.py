"""What a run found and how good it is, from what its clients say: the tasks, the scores and the
routing of `summary.json`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedrouter.evaluation.metrics import ari, majority, mean, nmi, pooled, purity, routing_accuracy
from fedrouter.protocol.messages import EvaluationReport, LabelScores
from fedrouter.strategies import ServerState, TaskState

SCOPES = ("local", "global", "base")
Counts = Mapping[str, Mapping[str, int]]  # task -> true task -> number


def score_table(evaluation: Iterable[EvaluationReport]) -> dict[str, Any]:
    """The scores by scope, each the mean over clients, and by true task.

    `local`: each client's own test rows; `global`: all test rows; `base`: the base model. None
    where nothing was measured. `by_task` splits them by true task (mean over the clients' rows of
    it); None where rows name none.
    """
    found = list(evaluation)
    table: dict[str, Any] = {scope: _mean_over_clients(found, scope) for scope in SCOPES}
    labels = dict.fromkeys(
        label for one in found for scores in one.scores.values() for label in scores
    )
    named = bool(labels) and "" not in labels
    by_task = {label: _by_scope(found, label) for label in sorted(labels)} if named else None
    return {**table, "by_task": by_task}


def routing_table(state: ServerState, evaluation: Mapping[int, EvaluationReport]) -> dict[str, Any]:
    """How well found tasks match true ones; None where rows name no task or nothing is routed.

    `accuracy` is over the test rows, each global task standing for the majority true task of its
    training rows; `ari`, `nmi` and `train_purity` are over the training rows; `confusion` has, for
    each global task, the number of test rows of each true task that were routed to it.
    """
    trained = _trained(state, evaluation)
    routed = _sum(one.routed for one in evaluation.values())
    unnamed = any("" in labels for labels in [*trained.values(), *routed.values()])
    if not trained or not routed or unnamed:
        return dict.fromkeys(("accuracy", "ari", "nmi", "train_purity", "confusion"))
    found, true = _pairs(trained)
    return {
        "accuracy": routing_accuracy(*_pairs(routed), majority(found, true)),
        "ari": ari(found, true),
        "nmi": nmi(found, true),
        "train_purity": purity(found, true),
        "confusion": {task: dict(labels) for task, labels in routed.items()},
    }


def task_table(
    state: ServerState, evaluation: Mapping[int, EvaluationReport]
) -> list[dict[str, Any]]:
    """One entry for each global task: its clients, its number of training samples, and the number
    of each true task among them (empty where rows name none). Empty where nothing is routed."""
    if not isinstance(state, TaskState):
        return []
    trained = _trained(state, evaluation)
    return [
        {
            "id": task,
            "clients": [client for client, own in sorted(state.assignment.items()) if task in own],
            "samples": sum(
                count
                for client, own in state.assignment.items()
                for name, count in zip(own, state.counts[client], strict=True)
                if name == task
            ),
            "true_tasks": {k: n for k, n in trained.get(task, {}).items() if k},
        }
        for task in state.geometry.tasks
    ]


def _mean_over_clients(
    evaluation: Sequence[EvaluationReport], scope: str
) -> dict[str, float] | None:
    clients = [pooled(one.scores[scope].values()) for one in evaluation if scope in one.scores]
    return mean(clients) or None


def _by_scope(evaluation: Sequence[EvaluationReport], label: str) -> dict[str, dict[str, float]]:
    groups: defaultdict[str, list[LabelScores]] = defaultdict(list)
    for one in evaluation:
        for scope, scores in one.scores.items():
            if label in scores:
                groups[scope].append(scores[label])
    return {scope: pooled(groups[scope]) for scope in SCOPES if groups[scope]}


def _trained(state: ServerState, evaluation: Mapping[int, EvaluationReport]) -> Counts:
    """Global task -> true task -> number of training rows, over the clients that reported."""
    if not isinstance(state, TaskState):
        return {}
    return _sum(
        {task: labels}
        for client, one in sorted(evaluation.items())
        for task, labels in zip(state.assignment.get(client, ()), one.found, strict=False)
    )


def _sum(tables: Iterable[Counts]) -> dict[str, Counter[str]]:
    total: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for table in tables:
        for task, labels in table.items():
            total[task].update(labels)
    return dict(sorted(total.items()))


def _pairs(counts: Counts) -> tuple[list[str], list[str]]:
    """The table as two lists with an entry for each row: found task and true task."""
    cells = [(task, label, n) for task, row in counts.items() for label, n in row.items()]
    return (
        [task for task, _, n in cells for _ in range(n)],
        [label for _, label, n in cells for _ in range(n)],
    )
