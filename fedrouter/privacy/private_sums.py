"""Differential privacy under secure aggregation: clients bound their parts and add the noise."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PrivateSums:
    """The bounds and the noise of a run's sums over clients, of which the server sees no part.

    Attributes:
        unit: of privacy.
        profile: noise multiplier of each sum of profiles; 0: the method has none.
        round: noise multiplier of each round's sum of movements; 0: the unit is "sample", so that
            clients' gradients have noise.
        bounds: the norm to which a client's movements are clipped, for each round from the first.
    """

    unit: Literal["client", "sample"]
    profile: float
    round: float
    bounds: tuple[float, ...]
