"""Adapters as differences to adapters that both sides have.

An adapter travels to a client as its difference to the run's initial adapter, which every machine
derives from the seed, and back as its movement, the difference to the adapter that was received.
Differences are much smaller than adapters, and so is what is lost when they are rounded. The server
adds movements to its own adapter, not to the rounded one that the client received, so that
the rounding of what it sends does not accumulate over rounds.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from fedrouter.errors import MessageError
from fedrouter.protocol.messages import ClientReply
from fedrouter.types import AdapterWeights, FloatArray


def difference(weights: AdapterWeights, start: AdapterWeights) -> dict[str, FloatArray]:
    """`weights` minus `start`, tensor by tensor.

    Args:
        weights: an adapter; tensors that `start` lacks stay as they are.
        start: an adapter of the same or a higher rank, whose first components count.

    Raises:
        MessageError: a tensor is larger than that of `start`.
    """
    return {
        name: array - _part(start[name], name, array) if name in start else array
        for name, array in weights.items()
    }


def restored(differences: AdapterWeights, start: AdapterWeights) -> dict[str, FloatArray]:
    """The weights whose `difference` to `start` this is, up to the rounding of float32.

    Raises:
        MessageError: a tensor is larger than that of `start`.
    """
    return {
        name: array + _part(start[name], name, array) if name in start else array
        for name, array in differences.items()
    }


def movements(reply: ClientReply, received: Mapping[str, AdapterWeights]) -> ClientReply:
    """A reply whose updates are differences to the adapters that they were trained from."""
    return _with_changed(reply, received, difference)


def with_weights(reply: ClientReply, sent: Mapping[str, AdapterWeights]) -> ClientReply:
    """A reply whose updates are adapters again.

    Args:
        reply: one whose updates are movements, not checked yet.
        sent: the adapters of the request as the server has them, not rounded.

    Raises:
        MessageError: a tensor is larger than that of the adapter.
    """
    return _with_changed(reply, sent, restored)


def _with_changed(
    reply: ClientReply,
    adapters: Mapping[str, AdapterWeights],
    change: Callable[[AdapterWeights, AdapterWeights], AdapterWeights],
) -> ClientReply:
    """A reply with each update's weights changed by those of its adapter."""
    updates = []
    for update in reply.updates:
        start = {} if update.adapter is None else adapters.get(update.adapter, {})
        updates.append(replace(update, weights=change(update.weights, start)))
    return replace(reply, updates=tuple(updates))


def _part(whole: FloatArray, name: str, array: FloatArray) -> FloatArray:
    """The components of a tensor that `array` has."""
    part = whole[tuple(map(slice, array.shape[: whole.ndim]))]
    if part.shape != array.shape:
        raise MessageError(
            f"tensor {name!r}: expected at most the shape {whole.shape}, got {array.shape}"
        )
    return part
