"""Evaluation reports as vectors that are summed over clients, and the report of all of them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.limits import MAX_LOSS
from fedrouter.protocol.messages import FRACTIONS, EvaluateOrder, EvaluationReport, LabelScores
from fedrouter.secure_aggregation.fixed_point import Part, VectorLayout

MAX_ROWS = 1e6  # test rows of a client
SCORES = (*FRACTIONS, "loss")
_Values = NDArray[np.float64]


def evaluation_layouts(order: EvaluateOrder) -> dict[str, VectorLayout]:
    """The vectors of an evaluation: for each scope 1, the number of rows, and the mean scores."""
    parts = Part(1, 1.0), Part(1, MAX_ROWS), Part(len(FRACTIONS), 1.0), Part(1, MAX_LOSS)
    return {_scores(scope): VectorLayout(64, parts) for scope in order.scopes}


def _scores(scope: str) -> str:
    return f"scores.{scope}"


def evaluation_vectors(report: EvaluationReport) -> dict[str, _Values]:
    """The vectors of a client's evaluation; true tasks are not among them."""
    vectors = {}
    for scope, by_label in report.scores.items():
        rows = sum(one.rows for one in by_label.values())
        means = [sum(o.rows * o.scores[s] for o in by_label.values()) / rows for s in SCORES]
        vectors[_scores(scope)] = np.array([1.0, rows, *means])
    return vectors


def summed_evaluation(order: EvaluateOrder, sums: Mapping[str, _Values]) -> EvaluationReport | None:
    """The report of all clients together, with means over clients; None if no sum was opened."""
    scores: dict[str, dict[str, LabelScores]] = {}
    for scope in order.scopes:
        if _scores(scope) in sums:
            number, rows, *means = sums[_scores(scope)]
            mean = {
                name: max(0.0, value / round(number))
                for name, value in zip(SCORES, means, strict=True)
            }
            scores[scope] = {"": LabelScores(round(rows), mean)}
    return EvaluationReport(scores, {}, ()) if scores else None
