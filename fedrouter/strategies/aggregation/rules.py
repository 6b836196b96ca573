"""Robust means of n movements, each of which counts once.

The definitions are those of the library byzfl (Guerraoui et al., "Byzantine Machine Learning: A
Primer", 2024). Geometric median and Multi-Krum are weighted means whose weights depend only on
distances, so they are computed from the Gram matrix, without another pass over the numbers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.strategies.aggregation.movements import BLOCK

ITERATIONS = 200  # of Weiszfeld's algorithm
PRECISION = 1e-6  # smallest distance to the median, and change of it, relative to the mean distance


def coordinate_mean(
    vectors: Sequence[NDArray[np.float32]], factors: NDArray[np.float64], trimmed: int
) -> NDArray[np.float64]:
    """The mean of each number after the `trimmed` largest and smallest ones were left out.

    Args:
        vectors: n of shape (d,).
        factors: by which the vectors are scaled first, shape (n,).
        trimmed: less than n / 2; (n - 1) // 2: the median (Yin et al., 2018).
    """
    result = np.empty(len(vectors[0]))
    for begin in range(0, len(result), BLOCK):
        block = np.stack([vector[begin : begin + BLOCK] for vector in vectors])
        ordered = np.sort(block * factors[:, None], axis=0)
        result[begin : begin + BLOCK] = ordered[trimmed : len(vectors) - trimmed].mean(axis=0)
    return result


def geometric_median_weights(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights whose weighted mean is the geometric median: the point with the smallest sum of
    distances to the vectors (Pillutla et al., "Robust Aggregation for Federated Learning", 2022),
    by Weiszfeld's algorithm from the mean on.

    Args:
        products: the Gram matrix of the vectors, shape (n, n).
    """
    weights = np.full(len(products), 1 / len(products))
    squares = np.diag(products)
    for _ in range(ITERATIONS):
        inner = products @ weights
        distances = np.sqrt((squares - 2 * inner + weights @ inner).clip(min=0))
        if not distances.any():
            break
        inverse = 1 / distances.clip(min=PRECISION * distances.mean())
        before, weights = weights, inverse / inverse.sum()
        if np.abs(weights - before).max() < PRECISION:
            break
    return weights


def krum_weights(products: NDArray[np.float64], hostile: int) -> NDArray[np.float64]:
    """Weights of Multi-Krum (Blanchard et al., 2017): 1 / (n - f) for the n - f vectors with the
    smallest mean squared distance to their n - f - 1 nearest others. Ties: the earlier vector.

    Args:
        products: the Gram matrix of the vectors, shape (n, n).
        hostile: f, less than n / 2.
    """
    number = len(products) - hostile
    squares = np.diag(products)
    distances = (squares[:, None] - 2 * products + squares).clip(min=0)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : max(1, number - 1)].mean(axis=1)
    weights = np.zeros(len(products))
    weights[np.argsort(scores, kind="stable")[:number]] = 1 / number
    return weights
