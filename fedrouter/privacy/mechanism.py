"""The Gaussian mechanism on a sum over clients.

Neighboring data sets differ in one client (or sample), whose part in the sum is replaced by zero.
The number of clients is public, so that sums are divided by numbers that do not depend on data.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.privacy.noise import normal_noise


def clip_factor(vectors: Sequence[NDArray[np.floating]], bound: float) -> float:
    """The factor, at most 1, by which vectors are scaled so that their joint L2 norm is at most
    `bound`; 0 if a number is not finite."""
    norm = float(np.sqrt(sum(np.square(v, dtype=np.float64).sum() for v in vectors)))
    if not np.isfinite(norm):
        return 0.0
    return min(1.0, bound / norm) if norm > 0 else 1.0


def noisy_sum(
    total: NDArray[np.float64],
    sensitivity: float,
    multiplier: float,
    secret: str,
    *path: str | int,
) -> NDArray[np.float64]:
    """A sum with normal noise of the standard deviation multiplier * sensitivity on each number.

    With secure aggregation clients add the noise in shares instead
    (`secure_aggregation.noise_shares`).

    Args:
        total: the sum of clipped vectors, of any shape.
        sensitivity: the bound on one vector's norm, over all sums of one release together.
        multiplier: the noise multiplier.
        secret, path: as in `normal_noise`; the path names the release and the sum.
    """
    noise = normal_noise(secret, *path, size=total.size).reshape(total.shape)
    return total + multiplier * sensitivity * noise
