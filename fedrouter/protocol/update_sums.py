"""Trained adapters as vectors that are summed over clients, and the mean of all clients' updates.

What is summed for an adapter are movements, trained minus received numbers, times the client's
number of samples: w and w (x - x0). The mean movement is their quotient.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import ClientRequest, TrainOrder, Update
from fedrouter.secure_aggregation.fixed_point import Part, VectorLayout
from fedrouter.types import AdapterWeights, moved, select_matrices

MAX_WEIGHT = 10_000  # samples; a client with more of a task counts for these
MAX_MOVEMENT = 1.0  # of one number of an adapter in a round; larger ones are clipped
MAX_TRAINED = 1e6  # samples, and samples times loss, of a client in a round
MAX_TOKENS = 1e9  # of a client in a round
MOVEMENT = "movement."  # of an adapter, whose name follows
TRAINING = "training"  # the vector of samples, samples times loss, and tokens
_Values = NDArray[np.float64]


def update_layouts(
    orders: Sequence[TrainOrder], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, VectorLayout]:
    """The vectors of a client's updates.

    Args:
        orders: the train orders.
        shapes: names and shapes of a whole adapter's tensors.
    """
    if not orders:
        return {}
    one = Part(1, MAX_TRAINED)
    layouts = {TRAINING: VectorLayout(64, (one, one, Part(1, MAX_TOKENS)))}
    for order in orders:
        sizes = [int(np.prod(s)) for s in select_matrices(shapes, order.send).values()]
        for adapter in order.adapters if sizes else ():
            layouts[movement_vector(adapter)] = VectorLayout(
                32, (Part(sum(sizes), MAX_WEIGHT * MAX_MOVEMENT),)
            )
            layouts[weight_vector(adapter)] = VectorLayout(64, (Part(1, MAX_WEIGHT), Part(1, 1e6)))
    return layouts


def movement_vector(adapter: str) -> str:
    """The vector of an adapter's movements."""
    return f"{MOVEMENT}{adapter}"


def adapter_of(vector: str) -> str | None:
    """The adapter of whose movements a vector consists; None if it does not."""
    return vector.removeprefix(MOVEMENT) if vector.startswith(MOVEMENT) else None


def weight_vector(adapter: str) -> str:
    """The vector of the samples by which an adapter's movements are weighted."""
    return f"weight.{adapter}"


def update_vectors(
    updates: Iterable[Update], received: Mapping[str, AdapterWeights]
) -> dict[str, _Values]:
    """The vectors of a client's updates; those of one adapter are added.

    Args:
        updates: the client's updates.
        received: the adapters as they arrived.
    """
    vectors: defaultdict[str, _Values] = defaultdict(lambda: np.zeros(1))
    samples: defaultdict[str, int] = defaultdict(int)
    for update in updates:
        trained = np.array([1.0, update.loss, 0.0]) * update.samples
        trained[2] = update.tokens
        vectors[TRAINING] = vectors[TRAINING] + trained
        if update.adapter is not None and update.weights:
            start = received[update.adapter]
            moved = [
                (update.weights[name].astype(np.float64) - start[name]).ravel()
                for name in sorted(update.weights)
            ]
            name = movement_vector(update.adapter)
            vectors[name] = vectors[name] + update.samples * np.concatenate(moved)
            samples[update.adapter] += update.samples
    for adapter, number in samples.items():
        weight = min(number, MAX_WEIGHT)
        vectors[movement_vector(adapter)] *= weight / number
        vectors[weight_vector(adapter)] = np.array([weight, number], np.float64)
    return dict(vectors)


def training_totals(sums: Mapping[str, _Values]) -> tuple[float, float, float]:
    """The samples of all training, their mean loss, and the tokens."""
    samples, losses, tokens = sums[TRAINING].tolist()
    return samples, max(0.0, losses / max(samples, 1)), tokens


def sent_matrices(request: ClientRequest, adapter: str) -> AdapterWeights:
    """The matrices of an adapter that clients were asked to send, as they were sent to them."""
    sent = {o.send for o in request.train if adapter in o.adapters and o.send}
    return select_matrices(request.adapters[adapter], max(sent, key=len))


def summed_updates(request: ClientRequest, sums: Mapping[str, _Values]) -> tuple[Update, ...]:
    """The updates of all clients together: for each adapter whose sum was opened, the adapter plus
    the mean movement, with the mean loss of all training and a share in its tokens.

    Args:
        request: one with all adapters that clients were asked to train.
        sums: vector -> its sum.
    """
    if TRAINING not in sums:
        return ()
    samples, loss, tokens = training_totals(sums)
    opened = [
        a for a in request.adapters if movement_vector(a) in sums and weight_vector(a) in sums
    ]
    numbers = {adapter: max(1, round(sums[weight_vector(adapter)][1])) for adapter in opened}
    updates: list[Update] = []
    for adapter in opened:
        mean = sums[movement_vector(adapter)] / max(1, round(sums[weight_vector(adapter)][0]))
        start = sent_matrices(request, adapter)
        share = round(float(tokens * numbers[adapter] / sum(numbers.values())))
        updates.append(
            Update(len(updates), adapter, moved(start, mean), numbers[adapter], loss, share)
        )
    if not updates:  # adapters that stay with clients
        updates.append(Update(0, None, {}, max(1, round(samples)), loss, round(tokens)))
    return tuple(updates)
