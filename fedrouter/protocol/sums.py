"""A reply as vectors that are summed over clients, and the reply of all clients together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.privacy.private_sums import PrivateSums
from fedrouter.protocol.evaluation_sums import (
    evaluation_layouts,
    evaluation_vectors,
    summed_evaluation,
)
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.private_sums import (
    private_profile_layouts,
    private_profile_vectors,
    private_update_layouts,
    private_update_vectors,
    summed_private_profile,
    summed_private_updates,
)
from fedrouter.protocol.profile_sums import profile_layouts, profile_vectors, summed_profile
from fedrouter.protocol.update_sums import summed_updates, update_layouts, update_vectors
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.secure_aggregation.fixed_point import VectorLayout

ALL_CLIENTS = -1  # the id in the reply of all clients together


def sum_layouts(request: ClientRequest, expected: ExpectedArrays) -> dict[str, VectorLayout]:
    """The vectors that the reply to a request becomes.

    Raises:
        MessageError: the reply would tell more than differential privacy allows.
    """
    profile, evaluate, private = request.profile, request.evaluate, expected.private_sums
    layouts: dict[str, VectorLayout] = {}
    if private is None:
        layouts |= {} if profile is None else profile_layouts(profile, expected.dimension)
        layouts |= update_layouts(request.train, expected.shapes)
    else:
        if profile is not None:
            layouts |= private_profile_layouts(profile, expected.dimension, private)
        layouts |= private_update_layouts(request.train, expected.shapes, private, request.round)
    return layouts | ({} if evaluate is None else evaluation_layouts(evaluate))


def sum_vectors(
    request: ClientRequest,
    reply: ClientReply,
    projected: NDArray[np.float64],
    private: PrivateSums | None = None,
) -> dict[str, NDArray[np.float64]]:
    """The vectors of a client's reply.

    Args:
        request: the request, with adapters as they arrived.
        reply: the reply.
        projected: the projection of scatters, shape (d, r).
        private: how they are clipped under differential privacy.
    """
    vectors = update_vectors(reply.updates, request.adapters)
    if private is not None:
        vectors = private_update_vectors(vectors, private, request.round)
    if request.profile is not None and reply.profile is not None:
        if private is None:
            vectors |= profile_vectors(request.profile, reply.profile, projected)
        else:
            vectors |= private_profile_vectors(request.profile, reply.profile, private)
    if reply.evaluation is not None:
        vectors |= evaluation_vectors(reply.evaluation)
    return vectors


def summed_reply(
    requests: Sequence[ClientRequest],
    sums: Mapping[str, NDArray[np.float64]],
    expected: ExpectedArrays,
) -> ClientReply:
    """The reply of all clients together.

    Args:
        requests: those of one round; all that ask for profiles have the same order.
        sums: vector -> its sum over the clients that have it; those that were not opened are
            missing.
        expected: what the arrays of the run look like.
    """
    first, private = requests[0], expected.private_sums
    orders = [order for request in requests for order in request.train]
    adapters = {n: a for request in requests for n, a in request.adapters.items()}
    everything = replace(first, train=tuple(orders), adapters=adapters)
    order = next((r.profile for r in requests if r.profile is not None), None)
    evaluate = next((r.evaluate for r in requests if r.evaluate is not None), None)
    profile = None
    if order is not None and private is None:
        profile = summed_profile(order, sums, expected.dimension, ALL_CLIENTS)
    if order is not None and private is not None:
        profile = summed_private_profile(sums, expected.dimension, ALL_CLIENTS)
    updates = summed_private_updates if private and private.round else summed_updates
    return ClientReply(
        ALL_CLIENTS,
        first.round,
        profile=profile,
        evaluation=None if evaluate is None else summed_evaluation(evaluate, sums),
        updates=updates(everything, sums),
    )
