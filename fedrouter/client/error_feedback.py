"""Error feedback: what the rounding of an update loses is added to the client's next one.

With m_r the movement of round r and Q the rounding of the wire, a client sends Q(m_r + e_r) and
keeps e_(r+1) = m_r + e_r - Q(m_r + e_r) (Seide et al., "1-Bit Stochastic Gradient Descent", 2014;
Karimireddy et al., "Error Feedback Fixes SignSGD", 2019). The sum of what is sent therefore differs
from the sum of all movements by the last error alone.

It is for int4, which loses 8 % of a movement; int8 loses 0.5 %. It made no difference where it was
measured (docs/performance.md), so that it is a setting.

An error is kept for each adapter and local task, in the client's folder, by round: a round that is
repeated starts from the same one. A reply that is lost takes its movement with it, not its error.
"""

from collections.abc import Sequence
from dataclasses import replace

from fedrouter.client.store import ClientStore
from fedrouter.protocol.compression import TransportDtype, decode, encode
from fedrouter.protocol.messages import ClientReply, TrainOrder, Update
from fedrouter.types import AdapterWeights

FOLDER = "errors"


def with_feedback(
    reply: ClientReply,
    orders: Sequence[TrainOrder],
    store: ClientStore,
    transport: TransportDtype,
) -> ClientReply:
    """A reply whose movements are rounded with error feedback; the new errors are stored.

    Args:
        reply: one whose updates are movements.
        orders: the train orders that they answer.
        store: the client's folder.
        transport: the configured dtype.

    Raises:
        MessageError: a movement cannot be encoded.
    """
    if transport != "int4":
        return reply
    rounded = [
        update
        if update.adapter is None or not update.weights
        else _rounded(update, orders[update.slot], reply.round, store, transport)
        for update in reply.updates
    ]
    return replace(reply, updates=tuple(rounded))


def _rounded(
    update: Update, order: TrainOrder, round: int, store: ClientStore, transport: TransportDtype
) -> Update:
    part = "all" if order.local_task is None else order.local_task
    name = f"{FOLDER}/{update.adapter}.{part}"
    wanted = _added(update.weights, store.kept(name, round))
    sent = decode(encode(wanted, transport))
    store.keep(name, round, {key: wanted[key] - array for key, array in sent.items()})
    return replace(update, weights=sent)


def _added(weights: AdapterWeights, error: AdapterWeights) -> AdapterWeights:
    """The movement with the error of the last one, if both have the same shape."""
    return {
        name: array + error[name] if name in error and error[name].shape == array.shape else array
        for name, array in weights.items()
    }
