"""Means over seeds, and differences paired by seed."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev

CONFIDENCE = 0.95


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation (divisor n - 1; None for a single value)."""
    return {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else None}


def paired_difference(
    of: Mapping[int, float], to: Mapping[int, float]
) -> dict[str, float | int | None] | None:
    """The mean of `of` minus `to` over the seeds that both have, with a confidence interval.

    Args:
        of: seed -> value.
        to: seed -> value.

    Returns:
        mean; low, high: the 95 % confidence interval mean -+ t(0.975, n - 1) sd / sqrt(n) of
        Student's t, None for a single seed; n: the number of seeds. None without a shared seed.
    """
    differences = [of[seed] - to[seed] for seed in sorted(of.keys() & to.keys())]
    n = len(differences)
    if n == 0:
        return None
    mean = fmean(differences)
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": n}
    from scipy.stats import t  # takes a second to import

    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(differences) / sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}
