"""Metrics of generated responses and of the discovered tasks.

All scores are fractions of 1. ROUGE (https://aclanthology.org/W04-1013) is Google's `rouge_score`
without stemming: it lower-cases texts and compares runs of ASCII letters and digits. A text
without any such run scores 0.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from math import log
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import LabelScores

Cluster = TypeVar("Cluster", bound=Hashable)  # the id or the number of a discovered task
Contingency = Mapping[Cluster, Mapping[str, int]]  # -> true task -> number of samples
Scores = dict[str, float]
ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(prediction: str, reference: str) -> Scores:
    """F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, by the names in `ROUGE`.

    ROUGE-2 counts pairs of words, so that a correct answer of a single word scores 0.
    """
    scores = _rouge_scorer().score(reference, prediction)
    return {name: float(scores[name].fmeasure) for name in ROUGE}


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if the texts are equal after normalizing white space, else 0.0."""
    return float(prediction.split() == reference.split())


def mean(scores: Sequence[Mapping[str, float]]) -> Scores:
    """The mean of each score; empty if `scores` is empty. All entries have the same keys."""
    if not scores:
        return {}
    return {name: sum(one[name] for one in scores) / len(scores) for name in scores[0]}


def contingency(clusters: Iterable[Cluster], true: Iterable[str]) -> dict[Cluster, Counter[str]]:
    """Discovered task -> true task -> number of samples, in the order of first appearance."""
    table: defaultdict[Cluster, Counter[str]] = defaultdict(Counter)
    for cluster, name in zip(clusters, true, strict=True):
        table[cluster][name] += 1
    return dict(table)


def purity(table: Contingency[Cluster]) -> float:
    """The fraction of samples whose true task is the majority in their discovered task."""
    return routing_accuracy(table, majority(table))


def ari(table: Contingency[Any]) -> float:
    """Adjusted Rand index of two partitions: 1 if they are equal, about 0 if they are unrelated.

    It is computed from the numbers of samples, since a client may report any number of them.
    """
    rows, columns = _margins(table)
    together = sum(_pairs(count) for labels in table.values() for count in labels.values())
    found, true = sum(map(_pairs, rows)), sum(map(_pairs, columns))
    expected = found * true / max(1, _pairs(sum(rows)))
    most = (found + true) / 2
    return float((together - expected) / (most - expected)) if most > expected else 1.0


def nmi(table: Contingency[Any]) -> float:
    """Normalized mutual information (arithmetic mean) of two partitions."""
    rows, columns = _margins(table)
    cells = [count for labels in table.values() for count in labels.values()]
    found, true, both = _entropy(rows), _entropy(columns), _entropy(cells)
    return float(2 * (found + true - both) / (found + true)) if found + true > 0 else 1.0


def _margins(table: Contingency[Any]) -> tuple[list[int], list[int]]:
    """The numbers of samples of the discovered and of the true tasks."""
    columns: Counter[str] = Counter()
    for labels in table.values():
        columns.update(labels)
    return [sum(labels.values()) for labels in table.values()], list(columns.values())


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _entropy(counts: Sequence[int]) -> float:
    """Of the partition whose parts have these numbers of samples, in nats."""
    total = sum(counts)
    return -sum(n / total * log(n / total) for n in counts if n)


def majority(table: Contingency[Cluster]) -> dict[Cluster, str]:
    """Discovered task -> the most frequent true task of its samples (see `most_frequent`)."""
    return {task: most_frequent(names) for task, names in table.items() if names}


def most_frequent(counts: Mapping[str, int]) -> str:
    """The name with the highest count; the alphabetically first one in a tie.

    >>> most_frequent({"dates": 2, "facts": 5, "query": 5})
    'facts'
    """
    return min(counts, key=lambda name: (-counts[name], name))


def routing_accuracy(table: Contingency[Cluster], majority: Mapping[Cluster, str]) -> float:
    """The fraction of samples whose discovered task has their true task as its majority.

    Args:
        table: discovered task -> true task -> number of samples; at least one sample.
        majority: discovered task -> its majority true task; samples of other tasks count as wrong.
    """
    hits = sum(names.get(majority.get(task, ""), 0) for task, names in table.items())
    return hits / sum(sum(names.values()) for names in table.values())


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes a while

    return RougeScorer(list(ROUGE), use_stemmer=False)


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10
) -> float:
    """The expected calibration error (https://arxiv.org/abs/1706.04599, equation 3).

    This is the mean absolute difference between confidence and accuracy over bins of equal width,
    weighted by the number of samples in each bin.

    Args:
        confidence: shape (n,), in [0, 1].
        right: shape (n,): whether the choice was right.
        bins: the number of bins.
    """
    indices = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(indices, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / max(1, len(confidence)))


def scores_by_label(
    labels: Sequence[str], scores: Sequence[Mapping[str, float]]
) -> dict[str, LabelScores]:
    """Mean scores of the rows of each label, in the order of first appearance."""
    groups: defaultdict[str, list[Mapping[str, float]]] = defaultdict(list)
    for label, one in zip(labels, scores, strict=True):
        groups[label].append(one)
    return {label: LabelScores(len(group), mean(group)) for label, group in groups.items()}


def pooled(groups: Iterable[LabelScores]) -> dict[str, float]:
    """Mean scores over all rows of several groups; empty if there are no rows."""
    counted = [group for group in groups if group.rows]
    rows = sum(group.rows for group in counted)
    names = counted[0].scores if counted else ()
    return {name: sum(g.rows * g.scores[name] for g in counted) / rows for name in names}
