"""Gaussian noise on a sum over clients, of which each client adds a share (differential privacy).

A sum that is opened over at least n_min clients has at least n_min shares. Each is a normal draw
with the standard deviation sigma / sqrt(n_min), rounded to the grid of the fixed point numbers, on
which the values have been rounded toward zero before, so that their norm is at most the bound.

A sum of rounded normal draws is not quite a normal one. Given the fractions that rounding dropped,
which do not depend on data, a share is a discrete Gaussian on a shifted grid. For sums of n of
these, of standard deviation s in steps of the grid, Kairouz, Liu and Steinke ("The Distributed
Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation", 2021) bound how far the
privacy loss exceeds that of one discrete Gaussian of the same variance: by a term of at most
10 n exp(-pi^2 s^2) for each number (a shift changes only phases in their proof, which is by
Poisson's summation). A discrete Gaussian is as private as a continuous one. With s of `LEAST_STEPS`
or more the term is below 1e-65 n, so that the accounting of the Gaussian mechanism holds. No bit of
a normal draw below the grid is released.
"""

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.privacy.noise import normal_noise
from fedrouter.secure_aggregation.fixed_point import VectorLayout, unsigned

LEAST_STEPS = 4.0  # of the grid, in the standard deviation of a share


def noise_share(
    layout: VectorLayout, clients: int, least: int, secret: str, *path: str | int
) -> NDArray[np.unsignedinteger]:
    """One client's share of the noise on the sum of a vector, as integers like those of its values.

    Args:
        layout: of the vector, with the noise on the sum.
        clients: the number of clients that have the vector.
        least: the least number of clients over which the sum is opened.
        secret, path: as for `normal_noise`; different for each client.

    Raises:
        MessageError: the noise is too small for the grid.
    """
    deviations = layout.noise() * layout.scales(clients) / least**0.5
    added = deviations > 0
    if added.any() and deviations[added].min() < LEAST_STEPS:
        raise MessageError(
            "sum: the noise is too small for numbers of fixed point; lower privacy.epsilon"
        )
    integers = np.zeros(layout.size, np.int64)
    draws = normal_noise(secret, *path, size=int(added.sum()))
    integers[added] = np.rint(draws * deviations[added])
    return integers.astype(unsigned(layout.bits))
