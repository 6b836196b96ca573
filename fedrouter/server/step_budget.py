"""Equal time in place of equal steps: slow clients train fewer steps (`federation.equal_time`).

A client's budget is the time of the median client. What its update counts is normalized by its
steps as in FedNova (Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization", 2020): tau_eff * d_i, where d_i is the movement divided by the client's
steps and tau_eff the mean number of steps. A sum weighted by samples then has the same fixed point
as with equal steps. FedNova derives the division by steps for SGD without momentum; AdamW's
movements grow with the steps in about the same way, as each step has a bounded size.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median

from fedrouter.protocol.messages import ClientRequest


def total_steps(request: ClientRequest) -> int:
    """The steps of a request's train orders."""
    return sum(order.steps for order in request.train)


def limit_steps(
    requests: Sequence[ClientRequest], speeds: Mapping[int, float]
) -> list[ClientRequest]:
    """The requests with fewer steps for clients that are slower than the median of those measured.

    Every order keeps at least one step.

    Args:
        requests: of one round.
        speeds: client -> its steps per second; a client that was never measured is not limited.
    """
    if not speeds:
        return list(requests)
    usual = median(speeds.values())
    return [_limited(one, min(1.0, speeds.get(one.client, usual) / usual)) for one in requests]


def _limited(request: ClientRequest, share: float) -> ClientRequest:
    if share == 1:
        return request
    orders = (replace(one, steps=max(1, round(one.steps * share))) for one in request.train)
    return replace(request, train=tuple(orders))


def mean_steps(requests: Sequence[ClientRequest]) -> dict[str, float]:
    """tau_eff of each adapter: the mean number of steps of the orders that may train it."""
    steps: defaultdict[str, list[int]] = defaultdict(list)
    for request in requests:
        for order in request.train:
            for name in order.adapters:
                steps[name].append(order.steps)
    return {name: fmean(each) for name, each in steps.items()}
