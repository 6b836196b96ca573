"""Replies as vectors under differential privacy: clients clip their part, and the sum has noise.

Sums that need no noise, since they are not protected (docs/privacy.md), are as without: numbers of
clients and samples, losses, tokens, and scores.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.privacy.mechanism import clip_factor
from fedrouter.privacy.private_sums import PrivateSums
from fedrouter.protocol.messages import ClientRequest, TrainOrder, Update
from fedrouter.protocol.profile_orders import AssignToNearest, AssignToStarts, ProfileOrder
from fedrouter.protocol.profile_sums import MAX_SAMPLES
from fedrouter.protocol.update_sums import (
    TRAINING,
    adapter_of,
    movement_vector,
    sent_matrices,
    training_totals,
    update_layouts,
    weight_vector,
)
from fedrouter.routing.types import TaskProfile
from fedrouter.secure_aggregation.fixed_point import Part, VectorLayout
from fedrouter.types import moved

SENSITIVITY = 1.0  # of sums of vectors of length 1, to one sample or client
LARGEST_DRAW = 8.3  # standard deviations; no draw of `normal_noise` is further from 0
VECTORS = "vectors"  # the vector of a number and of sums of embeddings
_Values = NDArray[np.float64]


def noise_multiplier(request: ClientRequest, private: PrivateSums | None) -> float:
    """The noise multiplier of the sum of the replies to a request; 0: it has no noise.

    Raises:
        MessageError: the reply would be two releases.
    """
    if private is None:
        return 0.0
    profile = private.profile if isinstance(request.profile, AssignToStarts) else 0.0
    round = private.round if request.train else 0.0
    if profile and round:
        raise MessageError("sum: expected an order for a profile or for training, got both")
    return profile or round


def private_profile_layouts(
    order: ProfileOrder, dimension: int, private: PrivateSums
) -> dict[str, VectorLayout]:
    """The vectors of a profile: a number that is not protected, and the sums by centroid.

    Raises:
        MessageError: a profile by this order would tell more.
    """
    if isinstance(order, AssignToNearest) and not order.scatter:
        return {}  # which tasks a client has is told with its keys
    if not isinstance(order, AssignToStarts):
        raise MessageError(f"sum: a profile by {order.kind!r} has no noise, and privacy.epsilon")
    noise = private.profile * SENSITIVITY
    sums = Part(_rows(order) * dimension, MAX_SAMPLES + LARGEST_DRAW * noise, noise)
    return {VECTORS: VectorLayout(64, (Part(1, MAX_SAMPLES), sums))}


def _rows(order: AssignToStarts) -> int:
    return sum(map(len, order.starts))


def private_profile_vectors(
    order: ProfileOrder, profile: TaskProfile, private: PrivateSums
) -> dict[str, _Values]:
    """The vectors of a client's profile, clipped.

    The number is that of clients or, if samples are the unit, of samples.
    """
    if not isinstance(order, AssignToStarts):
        return {}
    shape = _rows(order), profile.centroids.shape[1]
    number = 1 if private.unit == "client" else sum(profile.counts)
    sums = part_of_sums(profile, shape, private.unit)
    return {VECTORS: np.concatenate([[number], sums.ravel()])}


def part_of_sums(profile: TaskProfile, shape: tuple[int, ...], unit: str) -> _Values:
    """A client's part in the sums of vectors by task, shape (T, d).

    The vectors have length 1, so that one sample changes the sums by at most 1. If clients are the
    unit, each counts as one sample: its part is the mean over its samples.

    Args:
        profile: the answer to `AssignToStarts` with one start.
        shape: (T, d).
        unit: of privacy: "client" or "sample".
    """
    counts = np.array(profile.counts, np.float64)
    sums = np.zeros(shape)
    sums[list(profile.tasks)] = profile.centroids * counts[:, None]
    part = sums * clip_factor([sums / counts.sum()], SENSITIVITY)
    return part / counts.sum() if unit == "client" else part


def summed_private_profile(
    sums: Mapping[str, _Values], dimension: int, client: int
) -> TaskProfile | None:
    """The noisy sums by centroid as the `centroids` of a profile, whose `counts` are the number of
    clients, or of samples, in each; None if the sum was not opened.

    Args:
        sums: vector -> its sum.
        dimension: of embeddings.
        client: the id in the profile.
    """
    if VECTORS not in sums:
        return None
    number, rows = round(sums[VECTORS][0]), sums[VECTORS][1:].reshape(-1, dimension)
    nothing = (0.0,) * len(rows)
    counts = (number,) * len(rows)
    tasks = tuple(range(len(rows)))
    return TaskProfile(client, rows.astype(np.float32), counts, nothing, nothing, tasks=tasks)


def private_update_layouts(
    orders: Sequence[TrainOrder],
    shapes: Mapping[str, tuple[int, ...]],
    private: PrivateSums,
    round: int,
) -> dict[str, VectorLayout]:
    """The vectors of a client's updates: movements without weights, since clients count alike.

    Args:
        orders: the train orders.
        shapes: names and shapes of a whole adapter's tensors.
        private: bounds and noise.
        round: the round.
    """
    layouts = update_layouts(orders, shapes)
    if not private.round:
        return layouts
    noise = private.round * _bound(private, round) if orders else 0.0
    found = {}
    for name, layout in layouts.items():
        if adapter_of(name) is not None:
            bound = noise / private.round + LARGEST_DRAW * noise
            found[name] = VectorLayout(32, (Part(layout.size, bound, noise),))
        elif name == TRAINING:
            found[name] = layout
    return found


def _bound(private: PrivateSums, round: int) -> float:
    if not 1 <= round <= len(private.bounds):
        raise MessageError(f"sum: expected a round from 1 to {len(private.bounds)}, got {round}")
    return private.bounds[round - 1]


def private_update_vectors(
    vectors: Mapping[str, _Values], private: PrivateSums, round: int
) -> dict[str, _Values]:
    """The vectors of a client's updates, whose mean movements of all adapters are clipped together.

    Args:
        vectors: as without differential privacy.
        private: bounds and noise.
        round: the round.
    """
    if not private.round:
        return dict(vectors)
    means = {
        name: vector / vectors[weight_vector(adapter)][0]
        for name, vector in vectors.items()
        if (adapter := adapter_of(name)) is not None
    }
    factor = clip_factor(list(means.values()), _bound(private, round)) if means else 1.0
    clipped = {n: factor * v if factor > 0 else np.zeros_like(v) for n, v in means.items()}
    return clipped | {name: vectors[name] for name in (TRAINING,) if name in vectors}


def summed_private_updates(
    request: ClientRequest, sums: Mapping[str, _Values]
) -> tuple[Update, ...]:
    """The updates of all clients together: for each adapter whose sum was opened, the adapter plus
    the *sum* of the movements, with the mean loss of all training and equal shares in its samples
    and tokens.

    Args:
        request: one with all adapters that clients were asked to train.
        sums: vector -> its sum.
    """
    if TRAINING not in sums:
        return ()
    samples, loss, tokens = training_totals(sums)
    opened = [a for a in request.adapters if movement_vector(a) in sums]
    updates = []
    for slot, adapter in enumerate(opened):
        weights = moved(sent_matrices(request, adapter), sums[movement_vector(adapter)])
        parts = [max(1, round(total / len(opened))) for total in (samples, tokens)]
        updates.append(Update(slot, adapter, weights, parts[0], loss, parts[1]))
    return tuple(updates)
