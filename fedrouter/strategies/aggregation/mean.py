"""Aggregation of trained adapters: the sample-weighted mean (paper, step 2)."""

import numpy as np
from numpy.typing import NDArray

from fedrouter.types import AdapterWeights

LARGEST_WEIGHT = 1e15  # largest number of samples; prevents overflow of the float64 sums


class WeightedMean:
    """The running mean A_t = sum n_ij A_ij / sum n_ij of adapters that are added one at a time.

    Sums are float64 and need the memory of two adapters, however many are added. The order of the
    additions changes the result by at most the rounding of the last bit in float32.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self.total = 0.0  # the sum of the weights

    def add(self, weights: AdapterWeights, weight: float) -> None:
        """Add one adapter.

        Args:
            weights: float32 tensors with the names and shapes of the adapters added before, which
                `protocol.validation.check_reply` ensures for replies.
            weight: the number of samples; positive.

        Raises:
            ValueError: the weight is not positive, or the names differ from those added before.
        """
        if not 0 < weight <= LARGEST_WEIGHT:
            raise ValueError(f"expected a positive weight, got {weight}")
        if self._sums and self._sums.keys() != weights.keys():
            raise ValueError("expected the tensors of the adapters added before")
        for name, array in weights.items():
            self._sums.setdefault(name, np.zeros(array.shape))
            self._sums[name] += array * np.float64(weight)
        self.total += weight

    def result(self) -> dict[str, NDArray[np.float32]]:
        """The mean of the added adapters, as float32.

        Raises:
            ValueError: nothing was added.
        """
        if not self._sums:
            raise ValueError("the mean of no adapters does not exist")
        return {name: (total / self.total).astype(np.float32) for name, total in self._sums.items()}
