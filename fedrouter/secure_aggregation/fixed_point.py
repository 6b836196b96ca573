"""Real numbers as integers modulo 2^32 or 2^64, so that sums of them can be masked.

With K clients, whose values lie within [-b, b], the scale is (2^(bits-1) - K) / (K b): no sum
overflows. Each client's value is rounded to the nearest multiple of 1 / scale, so that a sum is off
by at most K / (2 scale). Values beyond b are clipped.
"""

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
        bound: the largest absolute value of one client; larger ones are clipped.
    """

    size: int
    bound: float


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
        return np.repeat(
            [largest / (clients * part.bound) for part in self.parts],
            [part.size for part in self.parts],
        )

    def encode(self, values: NDArray[np.float64], clients: int) -> NDArray[np.unsignedinteger]:
        """One client's values as integers.

        Args:
            values: shape (size,), finite.
            clients: the number of clients whose integers are added.
        """
        bounds = np.repeat([p.bound for p in self.parts], [p.size for p in self.parts])
        integers = np.rint(values.clip(-bounds, bounds) * self.scales(clients)).astype(np.int64)
        return integers.astype(unsigned(self.bits))

    def decode(self, total: NDArray[np.unsignedinteger], clients: int) -> NDArray[np.float64]:
        """The sum of the values of clients, from the sum of their integers.

        Args:
            total: shape (size,).
            clients: as for `encode`.
        """
        signed = total.view(np.int32 if self.bits == 32 else np.int64)
        return np.asarray(signed.astype(np.float64) / self.scales(clients))
