"""Means of adapters of different ranks.

Weights of clients are numbers of samples, as in the paper's step 2. With one rank for all clients
every mean of this file but `ProductMean` is that of step 2, bit for bit.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import ClientReply
from fedrouter.protocol.ranks import components, concatenate, pad, rank_of
from fedrouter.strategies.aggregation.mean import WeightedMean
from fedrouter.types import AdapterWeights, FloatArray

NEGLIGIBLE = 1e-6  # singular values below this share of the largest are zero in float32


class PartitionMean:
    """Each component averaged over the clients that have it (raFLoRA, arXiv 2602.13486).

    If components that a client lacks counted as zeros, those of high ranks would shrink in every
    round. A component that no client has is kept. Memory: two adapters for each distinct rank.

    Args:
        start: the adapter before the round, with all components.
    """

    def __init__(self, start: AdapterWeights) -> None:
        self._start = start
        self._means: dict[int, WeightedMean] = {}

    def add(self, weights: AdapterWeights, weight: float) -> None:
        """Add an adapter; raises as `WeightedMean.add`."""
        self._means.setdefault(rank_of(weights), WeightedMean()).add(weights, weight)

    def result(self) -> AdapterWeights:
        """The mean, with as many components as the adapter before the round."""
        means = {rank: mean.result() for rank, mean in self._means.items()}
        whole = rank_of(self._start)
        if means.keys() == {whole}:
            return means[whole]
        parts: list[AdapterWeights] = []
        for begin, end in pairwise(sorted({0, *means})):
            part = WeightedMean()
            for rank, mean in means.items():
                if rank >= end:
                    part.add(components(mean, begin, end), self._means[rank].total)
            parts.append(part.result())
        return concatenate([*parts, components(self._start, max(means), whole)])


class ProductMean:
    """The mean of the products B A, decomposed into components again by a singular value
    decomposition (FlexLoRA, arXiv 2402.11505).

    The mean of products is exact, which the product of means is not. What exceeds the rank is lost.
    Components of the result are in descending order of their singular values, so that the first
    ones, which clients of low rank receive, are the best approximation. A component that is zero
    keeps its A, as it could not be trained otherwise. Memory: a copy of every added adapter.

    Args:
        start: the adapter before the round, with all components.
    """

    def __init__(self, start: AdapterWeights) -> None:
        self._start = start
        self._added: list[tuple[AdapterWeights, float]] = []

    def add(self, weights: AdapterWeights, weight: float) -> None:
        """Add an adapter with both matrices of each module."""
        self._added.append((weights, weight))

    def result(self) -> AdapterWeights:
        """The mean; if only one matrix of each module is sent, its mean by components."""
        names = [name for name in self._start if name.endswith("lora_A.weight")]
        if 2 * len(names) != len(self._start):
            return self._partition_mean()
        total = sum(weight for _, weight in self._added)
        result = dict(self._start)
        for name in names:
            other = _other(name)
            a = np.concatenate([one[name] for one, _ in self._added]).astype(np.float64)
            b = np.hstack([one[other] * (weight / total) for one, weight in self._added])
            result[name], result[other] = _decomposed(a, b, self._start[name])
        return result

    def _partition_mean(self) -> AdapterWeights:
        mean = PartitionMean(self._start)
        for weights, weight in self._added:
            mean.add(weights, weight)
        return mean.result()


def ordered(adapter: AdapterWeights) -> AdapterWeights:
    """The same adapter with its components in descending order of singular values.

    Its first components, which clients of low rank receive, are then the best approximation of the
    whole; without the order they are no better than any others (bench/ranks.py). An adapter of one
    matrix for each module has no order and is returned as it is.
    """
    names = [name for name in adapter if name.endswith("lora_A.weight")]
    if 2 * len(names) != len(adapter):
        return adapter
    result = dict(adapter)
    for name in names:
        other = _other(name)
        a, b = (adapter[key].astype(np.float64) for key in (name, other))
        result[name], result[other] = _decomposed(a, b, adapter[name])
    return result


def _other(name: str) -> str:
    """The name of the B of an A."""
    return name.removesuffix("lora_A.weight") + "lora_B.weight"


def _decomposed(
    a: NDArray[np.float64], b: NDArray[np.float64], start: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A of shape (rank, in) and B of shape (out, rank) with the best approximation of a product.

    Args:
        a, b: the factors, of shapes (k, in) and (out, k).
        start: A before; its rows are kept where the product has fewer components.
    """
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    left, values, right = np.linalg.svd(r_b @ r_a.T)
    kept = min(len(start), int((values > NEGLIGIBLE * values.max(initial=0)).sum()))
    roots = np.sqrt(values[:kept])
    new_a, new_b = start.copy(), np.zeros((len(b), len(start)), np.float32)
    new_a[:kept] = (q_a @ right[:kept].T * roots).T
    new_b[:, :kept] = q_b @ left[:, :kept] * roots
    return new_a, new_b


def zero_padded(
    adapters: Mapping[str, AdapterWeights], replies: Iterable[ClientReply]
) -> Iterator[ClientReply]:
    """The replies with zeros for the components that clients lack: the naive mean, which shrinks
    them; a reference."""
    for reply in replies:
        updates = (
            update
            if update.adapter is None
            else replace(update, weights=pad(update.weights, rank_of(adapters[update.adapter])))
            for update in reply.updates
        )
        yield replace(reply, updates=tuple(updates))
