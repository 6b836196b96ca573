"""Trained adapters -> one adapter (step 2 of the method)."""

import numpy as np
from numpy.typing import NDArray

from fedrouter.types import AdapterWeights

LARGEST_WEIGHT = 1e15  # more samples than anyone has; keeps the float64 sums from overflowing


class WeightedMean:
    """A_t = sum n_ij A_ij / sum n_ij over adapters that arrive one at a time.

    The sums are kept in float64, in memory of two adapters however many are added. The order of
    the additions changes the result by no more than a rounding of its last float32 bit.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._total = 0.0

    def add(self, weights: AdapterWeights, weight: float) -> None:
        """Add one adapter with a weight, its number of samples.

        Args:
            weights: float32 tensors; names and shapes are those of the adapters added before, as
                `protocol.validation.check_reply` makes sure of replies.
            weight: positive.

        Raises:
            ValueError: the weight is not positive, or the names are others.
        """
        if not 0 < weight <= LARGEST_WEIGHT:
            raise ValueError(f"expected a positive weight, got {weight}")
        if self._sums and self._sums.keys() != weights.keys():
            raise ValueError("expected the tensors of the adapters added before")
        for name, array in weights.items():
            self._sums.setdefault(name, np.zeros(array.shape))
            self._sums[name] += array * np.float64(weight)
        self._total += weight

    def result(self) -> dict[str, NDArray[np.float32]]:
        """The mean of what was added, as float32.

        Raises:
            ValueError: nothing was added.
        """
        if not self._sums:
            raise ValueError("the mean of no adapters does not exist")
        return {
            name: (total / self._total).astype(np.float32) for name, total in self._sums.items()
        }
