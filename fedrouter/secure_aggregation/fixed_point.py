"""Real numbers as integers modulo 2^32 or 2^64, so that sums of them can be masked.

With K clients, whose values lie within [-b, b], the scale is (2^(bits-1) - K) / (K b): no sum
overflows. Each client's value is rounded to the nearest multiple of 1 / scale, so that a sum is off
by at most K / (2 scale). Values beyond b are clipped. Values that get noise are rounded toward
zero, so that their norm does not grow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bits = Literal[32, 64]


def unsigned(bits: Bits) -> np.dtype[np.unsignedinteger]:
    """The dtype of integers modulo 2^bits."""
    return np.dtype(np.uint32 if bits == 32 else np.uint64)


@dataclass(frozen=True)
class Part:
    """A number of values in a vector with the same bound.

    Attributes:
        size: how many.
        bound: the largest absolute value of one client, with its share of the noise; larger ones
            are clipped.
        noise: the standard deviation of the noise on each sum, which clients add in shares
            (`noise_shares`); 0: none.
    """

    size: int
    bound: float
    noise: float = 0.0


@dataclass(frozen=True)
class VectorLayout:
    """What a vector that is summed over clients consists of.

    Attributes:
        bits: of the integers.
        parts: its values, in order.
    """

    bits: Bits
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """The number of values."""
        return sum(part.size for part in self.parts)

    def scales(self, clients: int) -> NDArray[np.float64]:
        """The factor from each value to its integer, shape (size,)."""
        largest = 2.0 ** (self.bits - 1) * (1 - 2.0**-50) - clients  # exact in float64
        return self._repeated([largest / (clients * part.bound) for part in self.parts])

    def noise(self) -> NDArray[np.float64]:
        """The standard deviation of the noise on each sum, shape (size,)."""
        return self._repeated([part.noise for part in self.parts])

    def _repeated(self, numbers: Sequence[float]) -> NDArray[np.float64]:
        """A number of each part for each of its values."""
        return np.repeat(np.array(numbers), [part.size for part in self.parts])

    def encode(self, values: NDArray[np.float64], clients: int) -> NDArray[np.unsignedinteger]:
        """One client's values as integers.

        Args:
            values: shape (size,), finite.
            clients: the number of clients whose integers are added.
        """
        bounds = self._repeated([part.bound for part in self.parts])
        scaled = values.clip(-bounds, bounds) * self.scales(clients)
        whole = np.where(self.noise() > 0, np.trunc(scaled), np.rint(scaled))
        return whole.astype(np.int64).astype(unsigned(self.bits))

    def decode(self, total: NDArray[np.unsignedinteger], clients: int) -> NDArray[np.float64]:
        """The sum of the values of clients, from the sum of their integers.

        Args:
            total: shape (size,).
            clients: as for `encode`.
        """
        signed = total.view(np.int32 if self.bits == 32 else np.int64)
        return np.asarray(signed.astype(np.float64) / self.scales(clients))
