"""Adapters of a lower rank: the first r of an adapter's R components.

LoRA's product B A is a sum of R components, row j of A times column j of B. A client of rank r
receives, trains and returns the first r of them. The factor alpha / rank is the run's for every
client, so that a component counts the same wherever it was trained. A client fills the components
that it lacks with zeros: they add nothing to the product, and their gradients are zero, so that
training them with AdamW is exactly training an adapter of rank r.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fedrouter.types import AdapterWeights, FloatArray


def component_axis(name: str) -> int:
    """The axis of a tensor that counts components: 0 in A, 1 in B."""
    return 0 if name.endswith("lora_A.weight") else 1


def rank_of(weights: AdapterWeights) -> int:
    """The rank of an adapter, or of one of its two matrices."""
    name, array = next(iter(weights.items()))
    return int(array.shape[component_axis(name)])


def truncate(weights: AdapterWeights, rank: int) -> AdapterWeights:
    """The first `rank` components; an adapter that has no more is returned as it is."""
    if not weights or rank_of(weights) <= rank:
        return weights
    return components(weights, 0, rank)


def components(weights: AdapterWeights, begin: int, end: int) -> dict[str, FloatArray]:
    """The components from `begin` up to `end`, copied."""
    chosen = slice(begin, end)
    return {
        name: np.ascontiguousarray(array[chosen] if component_axis(name) == 0 else array[:, chosen])
        for name, array in weights.items()
    }


def concatenate(parts: Sequence[AdapterWeights]) -> dict[str, FloatArray]:
    """The components of several adapters, one after the other, as one adapter."""
    return {
        name: np.concatenate([part[name] for part in parts], component_axis(name))
        for name in parts[0]
    }


def pad(weights: AdapterWeights, rank: int) -> AdapterWeights:
    """The adapter with components of zeros up to `rank`."""
    if not weights or rank_of(weights) >= rank:
        return weights
    padded: dict[str, FloatArray] = {}
    for name, array in weights.items():
        added = [(0, 0), (0, 0)]
        added[component_axis(name)] = (0, rank - rank_of(weights))
        padded[name] = np.pad(array, added)
    return padded


def truncated_shapes(
    shapes: Mapping[str, tuple[int, ...]], rank: int
) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's first `rank` components."""
    return {
        name: tuple(
            min(size, rank) if axis == component_axis(name) else size
            for axis, size in enumerate(shape)
        )
        for name, shape in shapes.items()
    }
