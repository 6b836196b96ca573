"""The tasks, scores and routing tables of `summary.json`, from the clients' evaluation reports."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedrouter.evaluation.metrics import ari, majority, mean, nmi, pooled, purity, routing_accuracy
from fedrouter.protocol.messages import EvaluationReport, LabelScores
from fedrouter.strategies import ServerState, TaskState

SCOPES = ("local", "global", "base")
SHOWN_CLIENTS = 32  # of a task; more are a number
TASK_COLUMNS = ["task", "clients", "samples", "true tasks"]
Counts = Mapping[str, Mapping[str, int]]  # task -> true task -> number


def score_table(evaluation: Iterable[EvaluationReport]) -> dict[str, Any]:
    """The mean scores over clients, by scope and by true task.

    Returns:
        `local`: on each client's own test rows; `global`: on all test rows; `base`: the base model.
        Each is None if it was not measured. `by_task`: true task -> scope -> mean over the clients'
        rows of this task; None if rows do not name their task.
    """
    reports = list(evaluation)
    table: dict[str, Any] = {scope: _mean_over_clients(reports, scope) for scope in SCOPES}
    labels = dict.fromkeys(
        label for report in reports for scores in report.scores.values() for label in scores
    )
    named = bool(labels) and "" not in labels
    by_task = {label: _by_scope(reports, label) for label in sorted(labels)} if named else None
    return {**table, "by_task": by_task}


def routing_table(state: ServerState, evaluation: Mapping[int, EvaluationReport]) -> dict[str, Any]:
    """How well the global tasks match the true ones.

    Returns:
        `accuracy`: the share of test rows that are routed to a global task whose majority true task
        (among its training rows) is theirs. `ari`, `nmi` and `train_purity`: agreement on the
        training rows. `confusion`: global task -> true task -> number of test rows routed there.
        All are None if rows do not name their task or the method has no router.
    """
    trained = _trained(state, evaluation)
    routed = _sum(one.routed for one in evaluation.values())
    unnamed = any("" in labels for labels in [*trained.values(), *routed.values()])
    if not trained or not routed or unnamed:
        return dict.fromkeys(("accuracy", "ari", "nmi", "train_purity", "confusion"))
    return {
        "accuracy": routing_accuracy(routed, majority(trained)),
        "ari": ari(trained),
        "nmi": nmi(trained),
        "train_purity": purity(trained),
        "confusion": {task: dict(labels) for task, labels in routed.items()},
    }


def task_table(
    state: ServerState, evaluation: Mapping[int, EvaluationReport]
) -> list[dict[str, Any]]:
    """One entry for each global task; empty if the method has no router.

    Returns:
        `id`; `clients`: the clients with the task; `samples`: its number of training samples;
        `true_tasks`: true task -> number of samples, empty if rows do not name their task.
    """
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


def task_rows(tasks: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """The entries of `task_table` as rows for people, under `TASK_COLUMNS`."""
    return [
        [
            task["id"],
            client_list(task["clients"]),
            "-" if task["samples"] is None else task["samples"],
            ", ".join(f"{name} {count}" for name, count in task["true_tasks"].items()) or "-",
        ]
        for task in tasks
    ]


def client_list(clients: Sequence[int]) -> str:
    """The clients' ids for people; their number, if there are many.

    >>> client_list([0, 3]), client_list(range(2000))
    ('0, 3', '2,000 clients')
    """
    if len(clients) > SHOWN_CLIENTS:
        return f"{len(clients):,} clients"
    return ", ".join(map(str, clients))


def privacy_line(privacy: Mapping[str, Any] | None) -> str:
    """The entry `privacy` of a summary in one line for people; "" without differential privacy."""
    if privacy is None:
        return ""
    line = (
        f"differential privacy: epsilon {privacy['spent']:.3g} of {privacy['epsilon']:g} spent at "
        f"delta {privacy['delta']:g} in {privacy['releases']} releases, per {privacy['unit']}"
    )
    noise = ", ".join(privacy["only_noise"])
    return f"{line}; only noise: {noise}" if noise else line


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
    """Global task -> true task -> number of training rows, over the clients that reported it."""
    if not isinstance(state, TaskState):
        return {}
    return _sum(
        {task: labels}
        for client, one in sorted(evaluation.items())
        for task, labels in zip(state.assignment.get(client, ()), one.local_tasks, strict=False)
    )


def _sum(tables: Iterable[Counts]) -> dict[str, Counter[str]]:
    total: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for table in tables:
        for task, labels in table.items():
            total[task].update(labels)
    return dict(sorted(total.items()))
