"""A Flower app whose client 3 sends garbage, of another kind in every round.

Copied into the Flower app in tests with real processes.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from fedrouter.engines.flower import client_app
from fedrouter.engines.flower.client_app import make_client_app
from fedrouter.engines.flower.server_app import make_server_app
from fedrouter.protocol.codec import pack_reply
from fedrouter.protocol.messages import ClientReply, Update

GARBAGE = 3  # the client that sends it


def spoiled(reply: ClientReply, transport: Any) -> tuple[str, dict[str, Any]]:
    """The reply as it travels, with this round's fault."""
    if reply.client != GARBAGE or not reply.updates:
        return pack_reply(reply, transport)
    first, *others = reply.updates
    kind = reply.round % 6
    changes = {0: names, 1: shapes, 2: counts}
    if kind in changes:
        reply = replace(reply, updates=(changes[kind](first), *others))
    header, arrays = pack_reply(reply, transport)
    if kind == 3:
        arrays = {name: array * np.nan for name, array in arrays.items()}
    if kind == 4:
        arrays = {name: array.astype(np.int64) for name, array in arrays.items()}
    if kind == 5:
        header = header[: len(header) // 2]
    return header, arrays


def names(update: Update) -> Update:
    (_, array), *others = update.weights.items()
    return replace(update, weights={**dict(others), "unknown": array})


def shapes(update: Update) -> Update:
    (name, array), *others = update.weights.items()
    return replace(update, weights={name: np.ascontiguousarray(array[:, :1]), **dict(others)})


def counts(update: Update) -> Update:
    return replace(update, samples=10**15)


client_app.pack_reply = spoiled
client = make_client_app()
server = make_server_app()
