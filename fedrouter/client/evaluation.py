"""The client's part of evaluation: responses to its test rows, scores, losses of adapters."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from fedrouter.client.adapter_choice import RoutedRows, choose
from fedrouter.client.context import RequestContext
from fedrouter.data.rows import Row
from fedrouter.evaluation.metrics import contingency, scores_by_label
from fedrouter.evaluation.scoring import EvalItem, EvalResult
from fedrouter.protocol.messages import (
    ComparedLosses,
    Comparison,
    EvaluateOrder,
    EvaluationReport,
    LabelScores,
    Scope,
)
from fedrouter.routing.search import SEARCH
from fedrouter.seeding import generator
from fedrouter.storage.predictions import Prediction


def evaluate(order: EvaluateOrder, context: RequestContext) -> EvaluationReport:
    """Answer and score the test rows of each scope."""
    data = context.data
    widest = data.global_test or data.test
    rows: dict[Scope, Sequence[Row]] = {
        "local": data.test,
        "global": data.global_test,
        "base": widest,
    }
    chosen = {
        scope: _choose(order, context, rows[scope], scope) for scope in order.scopes if rows[scope]
    }
    routed = chosen.get("global") or choose(order.serving, context, widest, "global")
    results = {scope: _answers(which, context, rows[scope]) for scope, which in chosen.items()}
    if context.keeps_predictions and "global" in results:
        found = _predictions(widest, routed, results["global"])
        context.store.write_predictions(found)
    return EvaluationReport(
        scores={
            scope: _scores(context, rows[scope], answers) for scope, answers in results.items()
        },
        routed=_count_routed(context, routed.tasks, widest),
        local_tasks=count_labels(context),
    )


def _choose(
    order: EvaluateOrder, context: RequestContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    """The adapters that answer `rows` in a scope; none in scope "base"."""
    if scope == "base":
        return RoutedRows({}, [()] * len(rows))
    return choose(order.serving, context, rows, scope)


def _answers(chosen: RoutedRows, context: RequestContext, rows: Sequence[Row]) -> list[EvalResult]:
    items = [EvalItem(row, mixture) for row, mixture in zip(rows, chosen.mixtures, strict=True)]
    limit = context.config.evaluation.max_new_tokens
    return context.shared_model.answers(context.spec, chosen.adapters, items, limit)


def _scores(
    context: RequestContext, rows: Sequence[Row], answers: Sequence[EvalResult]
) -> dict[str, LabelScores]:
    labels = [context.reported_name(row) for row in rows]
    return scores_by_label(labels, [one.scores for one in answers])


def _predictions(
    rows: Sequence[Row], routed: RoutedRows, answers: Sequence[EvalResult]
) -> Iterator[Prediction]:
    """What is stored of each answer; nothing is routed in a method without a router."""
    missing = [None] * len(rows)
    routes = zip(routed.tasks or missing, routed.confidence or missing, strict=True)
    for row, answer, mixture, (task, confidence) in zip(
        rows, answers, routed.mixtures, routes, strict=True
    ):
        yield Prediction(
            prompt=row.instruction,
            context=[list(turn) for turn in row.context],
            expected=row.response,
            answer=answer.text,
            true_task=row.task,
            task=task,
            confidence=confidence,
            adapters=dict(mixture) if task else None,
            scores=dict(answer.scores),
        )


def compare_adapters(order: Comparison, context: RequestContext) -> ComparedLosses:
    """Mean losses of the base model and of some adapters, on samples of a local task."""
    request, seed = context.request, context.config.seed
    own = np.flatnonzero(context.labels == order.local_task)
    draws = generator(seed, "compare", request.round, request.client, order.local_task)
    chosen = draws.permutation(own)[: SEARCH.comparison_samples]
    rows = [context.data.train[i] for i in chosen]
    adapters = (None, *order.adapters)
    losses = context.losses(rows, adapters, np.ones((len(rows), len(adapters)), bool))
    base, *others = losses.mean(axis=0).tolist()
    by_adapter = dict(zip(order.adapters, others, strict=True))
    return ComparedLosses(order.local_task, len(rows), base, by_adapter)


def count_labels(context: RequestContext) -> tuple[dict[str, int], ...]:
    """For each local task, the number of its training rows that name each true task; empty if the
    client has no local tasks, or if its rows changed since."""
    labels = context.valid_labels
    if labels is None:
        return ()
    counts = [Counter[str]() for _ in range(labels.max() + 1)]
    for label, row in zip(labels, context.data.train, strict=True):
        counts[label][context.reported_name(row)] += 1
    return tuple(dict(count) for count in counts)


def _count_routed(
    context: RequestContext, tasks: Sequence[str], rows: Sequence[Row]
) -> dict[str, dict[str, int]]:
    """task -> label -> number of rows; `tasks` may be empty."""
    labels = [context.reported_name(row) for row in rows] if tasks else ()
    table = contingency(tasks, labels)
    return {task: dict(labels) for task, labels in sorted(table.items())}
