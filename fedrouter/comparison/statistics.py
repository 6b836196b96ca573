"""Means over seeds, and differences paired by seed or by task."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import TypeVar

Key = TypeVar("Key", int, str)  # a seed or a task

CONFIDENCE = 0.95


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation (divisor n - 1; None for a single value)."""
    return {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else None}


def paired_difference(
    of: Mapping[Key, float], to: Mapping[Key, float]
) -> dict[str, float | int | None] | None:
    """The mean of `of` minus `to` over the keys that both have, with a confidence interval.

    Args:
        of: seed or task -> value.
        to: seed or task -> value.

    Returns:
        mean; low, high: the 95 % confidence interval mean -+ t(0.975, n - 1) sd / sqrt(n) of
        Student's t, None for a single key; n: the number of keys. None without a shared key.
    """
    differences = [of[key] - to[key] for key in sorted(of.keys() & to.keys())]
    n = len(differences)
    if n == 0:
        return None
    mean = fmean(differences)
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": n}
    from scipy.stats import t  # takes a second to import

    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(differences) / sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}
