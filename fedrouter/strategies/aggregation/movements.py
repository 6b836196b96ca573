"""Movements: the difference between an adapter that a client trained and the one it received."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import ClientReply, Update
from fedrouter.protocol.ranks import component_axis, pad, rank_of, truncate
from fedrouter.types import AdapterWeights, flatten

BLOCK = 65_536  # numbers of each movement that are converted to float64 at a time


@dataclass(frozen=True, eq=False)
class Movement:
    """How one client moved one adapter in a round.

    Attributes:
        client: the client's id.
        adapter: the adapter's name.
        samples: number of training samples.
        vector: float32, shape (d,): trained minus received numbers, tensors in order of name; zero
            for components that the client does not have.
        rank: the number of components that it has.
    """

    client: int
    adapter: str
    samples: int
    vector: NDArray[np.float32]
    rank: int


def collect(
    adapters: Mapping[str, AdapterWeights], replies: Iterable[ClientReply]
) -> list[Movement]:
    """The movements of a round, in order of client and adapter, whatever the order of the replies.

    A client that trained an adapter on several local tasks has one movement for it: their mean,
    weighted by samples, so that it counts as one client. Memory: one float32 copy of every adapter
    that is sent.

    Args:
        adapters: the shared adapters before the round.
        replies: the clients' checked replies, of different clients; consumed one at a time.
    """
    found: list[Movement] = []
    for reply in replies:
        parts: defaultdict[str, list[Movement]] = defaultdict(list)
        for update in reply.updates:
            if update.adapter is not None and update.weights:
                parts[update.adapter].append(
                    _movement(reply.client, update, adapters[update.adapter])
                )
        found += [_pooled(own) for own in parts.values()]
    return sorted(found, key=lambda movement: (movement.client, movement.adapter))


def _movement(client: int, update: Update, start: AdapterWeights) -> Movement:
    assert update.adapter is not None
    rank, whole = rank_of(update.weights), rank_of(start)
    vector = flatten(pad(update.weights, whole))
    vector -= flatten(start if rank == whole else pad(truncate(start, rank), whole))
    return Movement(client, update.adapter, update.samples, vector, rank)


def _pooled(parts: Sequence[Movement]) -> Movement:
    """One client's movements of one adapter as one."""
    if len(parts) == 1:
        return parts[0]
    samples = sum(part.samples for part in parts)
    total = np.zeros(len(parts[0].vector))
    for part in parts:
        total += part.vector * np.float64(part.samples / samples)
    return replace(parts[0], samples=samples, vector=total.astype(np.float32))


def partitions(
    start: AdapterWeights, ranks: Sequence[int]
) -> Iterator[tuple[NDArray[np.bool_] | slice, int]]:
    """The parts of a movement that the same clients have (rank partitions, raFLoRA).

    Args:
        start: the adapter with all components.
        ranks: those of the movements.

    Yields:
        The numbers of a part, as an index into a vector of shape (d,), and the least rank that has
        them.
    """
    whole = rank_of(start)
    if min(ranks) == whole:
        yield slice(None), whole
        return
    index = {name: np.arange(array.shape[component_axis(name)]) for name, array in start.items()}
    component = flatten(
        {
            name: np.broadcast_to(one[:, None] if component_axis(name) == 0 else one, array.shape)
            for (name, one), array in zip(index.items(), start.values(), strict=True)
        }
    )
    for begin, end in pairwise(sorted({0, *ranks})):
        yield (component >= begin) & (component < end), end


def inner_products(movements: Sequence[Movement]) -> NDArray[np.float64]:
    """The Gram matrix of the movements, shape (n, n); n at least 1."""
    products = np.zeros((len(movements), len(movements)))
    for begin in range(0, len(movements[0].vector), BLOCK):
        block = np.stack([one.vector[begin : begin + BLOCK] for one in movements])
        exact = block.astype(np.float64)
        products += exact @ exact.T
    return products
