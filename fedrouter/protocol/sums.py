"""A reply as vectors that are summed over clients, and the reply of all clients together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.evaluation_sums import (
    evaluation_layouts,
    evaluation_vectors,
    summed_evaluation,
)
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.profile_sums import profile_layouts, profile_vectors, summed_profile
from fedrouter.protocol.update_sums import summed_updates, update_layouts, update_vectors
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.secure_aggregation.fixed_point import VectorLayout

ALL_CLIENTS = -1  # the id in the reply of all clients together


def sum_layouts(request: ClientRequest, expected: ExpectedArrays) -> dict[str, VectorLayout]:
    """The vectors that the reply to a request becomes."""
    profile, evaluate = request.profile, request.evaluate
    return {
        **({} if profile is None else profile_layouts(profile, expected.dimension)),
        **({} if evaluate is None else evaluation_layouts(evaluate)),
        **update_layouts(request.train, expected.shapes),
    }


def sum_vectors(
    request: ClientRequest, reply: ClientReply, projected: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The vectors of a client's reply.

    Args:
        request: the request, with adapters as they arrived.
        reply: the reply.
        projected: the projection of scatters, shape (d, r).
    """
    vectors = update_vectors(reply.updates, request.adapters)
    if request.profile is not None and reply.profile is not None:
        vectors |= profile_vectors(request.profile, reply.profile, projected)
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
    first = requests[0]
    orders = [order for request in requests for order in request.train]
    adapters = {n: a for request in requests for n, a in request.adapters.items()}
    everything = replace(first, train=tuple(orders), adapters=adapters)
    profile = next((r.profile for r in requests if r.profile is not None), None)
    evaluate = next((r.evaluate for r in requests if r.evaluate is not None), None)
    dimension = expected.dimension
    return ClientReply(
        ALL_CLIENTS,
        first.round,
        profile=None if profile is None else summed_profile(profile, sums, dimension, ALL_CLIENTS),
        evaluation=None if evaluate is None else summed_evaluation(evaluate, sums),
        updates=summed_updates(everything, sums),
    )
