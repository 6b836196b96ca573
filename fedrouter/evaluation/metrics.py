"""Metrics of generated responses and of the discovered tasks.

All scores are fractions of 1. ROUGE (https://aclanthology.org/W04-1013) is Google's `rouge_score`
without stemming: it lower-cases texts and compares runs of ASCII letters and digits. A text
without any such run scores 0.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import LabelScores

Cluster = TypeVar("Cluster", bound=Hashable)  # the id or the number of a discovered task
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


def purity(clusters: Sequence[Cluster], true: Sequence[str]) -> float:
    """The fraction of samples whose true task is the majority in their discovered task."""
    return routing_accuracy(clusters, true, majority(clusters, true))


def ari(clusters: Sequence[Any], true: Sequence[str]) -> float:
    """Adjusted Rand index of two partitions: 1 if they are equal, about 0 if they are unrelated."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(true, clusters))


def nmi(clusters: Sequence[Any], true: Sequence[str]) -> float:
    """Normalized mutual information (arithmetic mean) of two partitions."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(true, clusters))


def majority(clusters: Sequence[Cluster], true: Sequence[str]) -> dict[Cluster, str]:
    """Discovered task -> the most frequent true task of its samples (see `most_frequent`)."""
    counts: defaultdict[Cluster, Counter[str]] = defaultdict(Counter)
    for task, name in zip(clusters, true, strict=True):
        counts[task][name] += 1
    return {task: most_frequent(names) for task, names in counts.items()}


def most_frequent(counts: Mapping[str, int]) -> str:
    """The name with the highest count; the alphabetically first one in a tie.

    >>> most_frequent({"dates": 2, "facts": 5, "query": 5})
    'facts'
    """
    return min(counts, key=lambda name: (-counts[name], name))


def routing_accuracy(
    clusters: Sequence[Cluster], true: Sequence[str], majority: Mapping[Cluster, str]
) -> float:
    """The fraction of samples whose discovered task has their true task as its majority.

    Args:
        clusters: the discovered task of each sample; at least one sample.
        true: the true task of each sample.
        majority: discovered task -> its majority true task; samples of other tasks count as wrong.
    """
    hits = [majority.get(task) == name for task, name in zip(clusters, true, strict=True)]
    return sum(hits) / len(hits)


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
