"""Late updates as updates of the adapters as they are now.

A late update moves the adapter as it is now by the movement of the adapter that the client
received, scaled by its staleness (FedBuff: Nguyen et al., "Federated Learning with Buffered
Asynchronous Aggregation", 2022). To a strategy it looks like any other update.
"""

from collections.abc import Mapping
from dataclasses import replace

from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.ranks import rank_of, truncate
from fedrouter.strategies import ServerState, TaskState
from fedrouter.types import AdapterWeights


def staleness_weight(staleness: int) -> float:
    """The factor of an update that was trained from the adapter of `staleness` rounds ago."""
    return float((1 + staleness) ** -0.5)


def current_reply(
    request: ClientRequest,
    reply: ClientReply,
    state: ServerState,
    steps: Mapping[str, float],
) -> ClientReply:
    """A reply whose updates are trained from the adapters as they are now.

    Updates of adapters that are no more are left out.

    Args:
        request: what was asked, with the adapters that were sent.
        reply: the checked answer.
        state: the state before the round in which it counts.
        steps: adapter -> the steps to which updates are normalized; empty: they are not.
    """
    factor = staleness_weight(state.round + 1 - request.round)
    updates = []
    for update in reply.updates:
        if update.adapter is None or not update.weights:
            updates.append(update)
            continue
        name = current_adapter(state, update.adapter)
        if name is not None:
            trained = request.train[update.slot].steps
            scale = factor * steps.get(update.adapter, trained) / trained
            start = request.adapters[update.adapter]
            moved = _moved(update.weights, start, state.adapters[name], scale)
            updates.append(replace(update, adapter=name, weights=moved))
    return replace(reply, updates=tuple(updates))


def current_adapter(state: ServerState, name: str) -> str | None:
    """The name under which an adapter of an earlier round goes on; None: it is no more."""
    if isinstance(state, TaskState):
        merged = {event.task: event.other for event in state.history if event.kind == "merged"}
        while (other := merged.get(name)) is not None:
            name = other
    return name if name in state.adapters else None


def _moved(
    trained: AdapterWeights, start: AdapterWeights, now: AdapterWeights, scale: float
) -> AdapterWeights:
    """The adapter as it is now, moved by `scale` times the movement from start to trained."""
    rank = rank_of(trained)
    start, now = truncate(start, rank), truncate(now, rank)
    if scale == 1 and all((start[name] == now[name]).all() for name in trained):
        return trained  # as it is: the sum below would be rounded
    return {
        name: now[name] + (array - start[name]) * array.dtype.type(scale)
        for name, array in trained.items()
    }
