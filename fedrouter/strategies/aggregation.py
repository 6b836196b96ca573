"""Trained adapters -> one adapter (step 2 of the method)."""

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
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
        """Add one adapter, which counts as `weight` samples. A refused one changes nothing.

        Raises:
            MessageError: the weights are not finite float32 arrays, or differ in names or shapes
                from those added first; or `weight` is not a positive number.
        """
        if not 0 < weight <= LARGEST_WEIGHT:
            raise MessageError(f"an adapter stands for {weight} samples; a positive number is due")
        check_weights(weights, self._sums or weights)
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


def check_weights(
    weights: AdapterWeights, like: AdapterWeights | dict[str, NDArray[np.float64]]
) -> None:
    """Check that `weights` are finite float32 arrays with the names and shapes of `like`.

    Raises:
        MessageError: they are not; the message names the first tensor at fault.
    """
    if not weights:
        raise MessageError("an adapter has no tensors")
    for name in sorted(weights.keys() ^ like.keys()):
        which = "unknown" if name in weights else "missing"
        raise MessageError(f"an adapter's tensor {name!r} is {which}; the ranks or targets differ")
    for name, array in weights.items():
        if array.shape != like[name].shape:
            raise MessageError(
                f"an adapter's tensor {name!r} has shape {array.shape}, not {like[name].shape}; "
                "the ranks or base models differ"
            )
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise MessageError(
                f"an adapter's tensor {name!r} does not hold finite float32 numbers; "
                "lower training.lr if its training diverged"
            )
