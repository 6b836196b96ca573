"""A client's evaluation, checked against the order that it answers."""

from collections.abc import Mapping, Sequence

from fedrouter.errors import MessageError
from fedrouter.protocol.limits import MAX_COUNT, MAX_TABLE, check_count, check_labels, check_loss
from fedrouter.protocol.messages import FRACTIONS, EvaluateOrder, EvaluationReport, LabelScores
from fedrouter.protocol.serving_rules import RouteByTask, TrueTask


def check_evaluation(
    order: EvaluateOrder, evaluation: EvaluationReport, counts: Sequence[int] | None
) -> None:
    """Check what a client reports about its test rows against what was asked.

    Args:
        order: what was asked.
        evaluation: the answer.
        counts: the number of samples of each local task, as the client's profile says; None: it
            has no profile.

    Raises:
        MessageError: one line that names the first fault.
    """
    if not {*evaluation.scores} <= {*order.scopes}:
        raise MessageError(f"evaluation: expected scores in the scopes {', '.join(order.scopes)}")
    for scope, by_label in evaluation.scores.items():
        if not by_label:
            raise MessageError(f"evaluation: expected scores in scope {scope}, got none")
        check_labels("evaluation", by_label)
        for scores in by_label.values():
            _check_scores(scores)
        rows = sum(scores.rows for scores in by_label.values())
        check_count("evaluation", "test rows in all", rows)
    _check_routed(order, evaluation)
    _check_local_tasks(evaluation, counts)


def _check_scores(one: LabelScores) -> None:
    check_count("evaluation", "test rows", one.rows)
    if {*one.scores} != {*FRACTIONS, "loss"}:
        raise MessageError(f"evaluation: expected the scores {', '.join(FRACTIONS)} and loss")
    if not all(0 <= one.scores[name] <= 1 for name in FRACTIONS):
        raise MessageError("evaluation: expected finite scores from 0 to 1")
    check_loss("evaluation", one.scores["loss"])


def _check_routed(order: EvaluateOrder, evaluation: EvaluationReport) -> None:
    serving = order.serving
    known: set[str] = set()
    if isinstance(serving, RouteByTask):
        known = {*serving.geometry.tasks}
    elif isinstance(serving, TrueTask):
        known = {*serving.adapters.values()}
    if not {*evaluation.routed} <= known:
        raise MessageError(f"evaluation: expected rows routed to some of {len(known)} tasks")
    for labels in evaluation.routed.values():
        _check_table(labels, MAX_COUNT)


def _check_local_tasks(evaluation: EvaluationReport, counts: Sequence[int] | None) -> None:
    tables = evaluation.local_tasks
    most = MAX_TABLE if counts is None else len(counts)
    if len(tables) > most:
        raise MessageError(f"evaluation: expected at most {most} local tasks, got {len(tables)}")
    for j, labels in enumerate(tables):
        _check_table(labels, MAX_COUNT if counts is None else counts[j])


def _check_table(labels: Mapping[str, int], most: int) -> None:
    """Check the numbers of rows by label, `most` in all."""
    check_labels("evaluation", labels)
    for count in labels.values():
        check_count("evaluation", "rows", count, most)
    if sum(labels.values()) > most:
        raise MessageError(
            f"evaluation: expected at most {most} rows of a task, got {sum(labels.values())}"
        )
