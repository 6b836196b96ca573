"""Movements: the difference between an adapter that a client trained and the one it received."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import ClientReply
from fedrouter.types import AdapterWeights

BLOCK = 65_536  # numbers of each movement that are converted to float64 at a time


@dataclass(frozen=True, eq=False)
class Movement:
    """How one client moved one adapter in a round.

    Attributes:
        client: the client's id.
        adapter: the adapter's name.
        samples: number of training samples.
        vector: float32, shape (d,): trained minus received numbers, tensors in order of name.
    """

    client: int
    adapter: str
    samples: int
    vector: NDArray[np.float32]


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
                vector = _flat(update.weights)
                vector -= _flat(adapters[update.adapter])
                parts[update.adapter].append(
                    Movement(reply.client, update.adapter, update.samples, vector)
                )
        found += [_pooled(own) for own in parts.values()]
    return sorted(found, key=lambda movement: (movement.client, movement.adapter))


def _flat(weights: AdapterWeights) -> NDArray[np.float32]:
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def _pooled(parts: Sequence[Movement]) -> Movement:
    """One client's movements of one adapter as one."""
    if len(parts) == 1:
        return parts[0]
    samples = sum(part.samples for part in parts)
    total = np.zeros(len(parts[0].vector))
    for part in parts:
        total += part.vector * np.float64(part.samples / samples)
    return Movement(parts[0].client, parts[0].adapter, samples, total.astype(np.float32))


def moved(start: AdapterWeights, movement: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """An adapter after a movement of shape (d,)."""
    result, begin = {}, 0
    for name in sorted(start):
        end = begin + start[name].size
        step = movement[begin:end].reshape(start[name].shape)
        result[name] = (start[name] + step).astype(np.float32)
        begin = end
    return {name: result[name] for name in start}


def inner_products(movements: Sequence[Movement]) -> NDArray[np.float64]:
    """The Gram matrix of the movements, shape (n, n); n at least 1."""
    products = np.zeros((len(movements), len(movements)))
    for begin in range(0, len(movements[0].vector), BLOCK):
        block = np.stack([one.vector[begin : begin + BLOCK] for one in movements])
        exact = block.astype(np.float64)
        products += exact @ exact.T
    return products
