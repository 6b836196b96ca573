"""The aggregation of a round: for each adapter, one adapter from those that clients trained."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrouter.config import AggregationConfig
from fedrouter.protocol.messages import ClientReply
from fedrouter.strategies.aggregation.agreement import clients_against
from fedrouter.strategies.aggregation.by_rank import PartitionMean, ProductMean, zero_padded
from fedrouter.strategies.aggregation.clipping import (
    ENOUGH_CLIENTS,
    bounded_weights,
    norm_factors,
)
from fedrouter.strategies.aggregation.movements import (
    Movement,
    collect,
    inner_products,
    partitions,
)
from fedrouter.strategies.aggregation.rules import (
    coordinate_mean,
    geometric_median_weights,
    krum_weights,
)
from fedrouter.types import AdapterWeights, moved


@dataclass(frozen=True)
class Aggregate:
    """The result of a round.

    Attributes:
        adapters: the adapters that clients trained, aggregated.
        excluded: the clients whose updates are left out, in ascending order; found in this round
            or before.
    """

    adapters: Mapping[str, AdapterWeights]
    excluded: tuple[int, ...]


def aggregate(
    settings: AggregationConfig,
    adapters: Mapping[str, AdapterWeights],
    replies: Iterable[ClientReply],
    *,
    excluded: Collection[int],
    by_task: bool,
) -> Aggregate:
    """Aggregate the updates of a round; the order of the replies does not matter.

    Memory: with `robust = "none"` two copies of each adapter; otherwise a copy of every adapter
    that a client sends, since bounds are known only when all have arrived.

    Args:
        settings: the section `[aggregation]`.
        adapters: the shared adapters before the round.
        replies: the clients' checked replies; consumed one at a time.
        excluded: the clients whose updates were left out before.
        by_task: whether each adapter stands for a task, so that clients are compared over tasks.
    """
    if settings.ranks == "zero_padding":
        replies = zero_padded(adapters, replies)
    if settings.robust == "none":
        return Aggregate(_means(settings, adapters, replies), ())
    movements = collect(adapters, replies)
    if not movements:
        return Aggregate({}, tuple(sorted(excluded)))
    products = inner_products(movements)
    compared = settings.agreement and by_task
    excluded = clients_against(movements, products, excluded) if compared else ()
    kept = [i for i, one in enumerate(movements) if one.client not in excluded]
    combined = _combine(
        settings, [movements[i] for i in kept], products[np.ix_(kept, kept)], adapters
    )
    return Aggregate(combined, excluded)


def _means(
    settings: AggregationConfig,
    adapters: Mapping[str, AdapterWeights],
    replies: Iterable[ClientReply],
) -> dict[str, AdapterWeights]:
    """Step 2 of the paper: the means weighted by samples."""
    mean = ProductMean if settings.ranks == "svd" else PartitionMean
    means: dict[str, ProductMean | PartitionMean] = {}
    for reply in replies:
        for update in reply.updates:
            if update.adapter is not None and update.weights:
                if update.adapter not in means:
                    means[update.adapter] = mean(adapters[update.adapter])
                means[update.adapter].add(update.weights, update.samples)
    return {name: mean.result() for name, mean in means.items()}


def _combine(
    settings: AggregationConfig,
    movements: Sequence[Movement],
    products: NDArray[np.float64],
    adapters: Mapping[str, AdapterWeights],
) -> dict[str, AdapterWeights]:
    """Each adapter after the robust mean of its movements."""
    factors = norm_factors(movements, np.sqrt(np.diag(products)))
    weights = bounded_weights(movements)
    bounded = products * factors * factors[:, None]
    result: dict[str, AdapterWeights] = {}
    for name in dict.fromkeys(one.adapter for one in movements):
        own = [i for i, one in enumerate(movements) if one.adapter == name]
        total = np.zeros(len(movements[own[0]].vector))
        for numbers, rank in partitions(adapters[name], [movements[i].rank for i in own]):
            holders = [i for i in own if movements[i].rank >= rank]
            total[numbers] = _robust_mean(
                settings,
                [movements[i].vector[numbers] for i in holders],
                factors[holders],
                weights[holders],
                bounded[np.ix_(holders, holders)],
            )
        result[name] = moved(adapters[name], total)
    return result


def _robust_mean(
    settings: AggregationConfig,
    vectors: Sequence[NDArray[np.float32]],
    factors: NDArray[np.float64],
    weights: NDArray[np.float64],
    products: NDArray[np.float64],
) -> NDArray[np.float64]:
    """One movement of shape (d,) from n scaled ones; the bounded mean of fewer than five."""
    number = len(vectors)
    hostile = min(int(settings.hostile * number), (number - 1) // 2)
    rule = settings.robust if number >= ENOUGH_CLIENTS else "clip"
    if rule in ("median", "trimmed_mean"):
        trimmed = (number - 1) // 2 if rule == "median" else hostile
        return coordinate_mean(vectors, factors, trimmed)
    if rule == "geometric_median":
        weights = geometric_median_weights(products)
    elif rule == "krum":
        weights = krum_weights(products, hostile)
    total = np.zeros(len(vectors[0]))
    for vector, share in zip(vectors, factors * weights / weights.sum(), strict=True):
        total += vector * share
    return total
