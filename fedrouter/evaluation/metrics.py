"""Scores of answers, and of the tasks that were found.

All scores are fractions of 1. ROUGE (Lin, 2004) is Google's `rouge_score` without stemming: it
lower-cases and compares runs of ASCII letters and digits, so that a text without any scores 0.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import LabelScores

Found = TypeVar("Found", bound=Hashable)  # how a found task is named: an id or a number
Scores = dict[str, float]
ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(prediction: str, reference: str) -> Scores:
    """F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, by the names in `ROUGE`.

    ROUGE-2 counts pairs of words, so that an answer of one word scores 0 even when it is right.
    """
    found = _rouge_scorer().score(reference, prediction)
    return {name: float(found[name].fmeasure) for name in ROUGE}


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if the texts are equal but for white space at the ends and its kind inside, else 0.0."""
    return float(prediction.split() == reference.split())


def mean(scores: Sequence[Mapping[str, float]]) -> Scores:
    """The mean of each score; empty when there are none.

    Args:
        scores: all of the same names.
    """
    if not scores:
        return {}
    return {name: sum(one[name] for one in scores) / len(scores) for name in scores[0]}


def purity(found: Sequence[Found], true: Sequence[str]) -> float:
    """The fraction of samples whose true task is the majority in their found task."""
    return routing_accuracy(found, true, majority(found, true))


def ari(found: Sequence[Any], true: Sequence[str]) -> float:
    """Adjusted Rand index of two groupings: 1 for the same, about 0 for unrelated ones."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(true, found))


def nmi(found: Sequence[Any], true: Sequence[str]) -> float:
    """Normalised mutual information (arithmetic mean) of two groupings."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(true, found))


def majority(found: Sequence[Found], true: Sequence[str]) -> dict[Found, str]:
    """Found task -> the most frequent true task of its samples; the first by name in a tie."""
    counts: defaultdict[Found, Counter[str]] = defaultdict(Counter)
    for task, name in zip(found, true, strict=True):
        counts[task][name] += 1
    return {
        task: min(names, key=lambda name: (-names[name], name)) for task, names in counts.items()
    }


def routing_accuracy(
    found: Sequence[Found], true: Sequence[str], majority: Mapping[Found, str]
) -> float:
    """The fraction of samples routed to a found task that stands for their true task.

    Args:
        found: the found task of each sample; at least one sample.
        true: the true task of each sample.
        majority: found task -> the true task that it stands for; a task not in it stands for none.
    """
    hits = [majority.get(task) == name for task, name in zip(found, true, strict=True)]
    return sum(hits) / len(hits)


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes a while

    return RougeScorer(list(ROUGE), use_stemmer=False)


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10
) -> float:
    """The expected calibration error: the mean gap between confidence and accuracy over equal bins
    of confidence, weighted by how many fall into each (Naeini et al. 2015).

    Args:
        confidence: shape (n,), in [0, 1].
        right: shape (n,): whether the choice was right.
        bins: number of bins.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=confidence - right, minlength=bins)
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
    """Mean scores over all rows of several groups; empty where there are none."""
    counted = [group for group in groups if group.rows]
    rows = sum(group.rows for group in counted)
    names = counted[0].scores if counted else ()
    return {name: sum(g.rows * g.scores[name] for g in counted) / rows for name in names}
