"""Bounds on how much one client can do: on the norm of its movement, and on its weight in a mean.

Both are set by the median over clients. Fewer than five clients have no median that one of them
cannot move, so that an adapter with fewer clients uses the median over all adapters of the round:
tasks are trained by the same number of steps at the same rate, and norms of movements differ little
between them (docs/trust.md).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.strategies.aggregation.movements import Movement

ENOUGH_CLIENTS = 5  # that trained an adapter: from here on it has statistics of its own
LARGEST_NORM = 1.5  # of a movement, as a multiple of the median
LARGEST_WEIGHT = 1.5  # of a client in a mean, as a multiple of the median number of samples


def norm_factors(movements: Sequence[Movement], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor, at most 1, by which each movement is scaled to bound its norm.

    Args:
        movements: those of a round.
        norms: their norms, shape (n,).
    """
    bounds = LARGEST_NORM * _medians(movements, norms)
    return np.divide(bounds, norms, out=np.ones(len(norms)), where=norms > bounds)


def bounded_weights(movements: Sequence[Movement]) -> NDArray[np.float64]:
    """The weight of each movement in a mean: its number of samples, bounded."""
    samples = np.array([one.samples for one in movements], np.float64)
    return np.minimum(samples, LARGEST_WEIGHT * _medians(movements, samples))


def _medians(movements: Sequence[Movement], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each movement, the lower median of the values of its adapter's movements, or of all if
    the adapter has fewer than five. (Of two values, the mean would follow the larger one.)"""
    clients = Counter(one.adapter for one in movements)
    names = np.array([one.adapter for one in movements])
    medians = np.full(len(movements), _lower_median(values))
    for adapter, number in clients.items():
        if number >= ENOUGH_CLIENTS:
            medians[names == adapter] = _lower_median(values[names == adapter])
    return medians


def _lower_median(values: NDArray[np.float64]) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])
