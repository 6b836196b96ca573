"""Scripted clients whose replies leave them masked, and that may vanish before any exchange."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrouter.client.releases import ClientReleases
from fedrouter.client.secure_sums import SecureSums, sum_rules
from fedrouter.config import ResolvedConfig
from fedrouter.errors import MessageError
from fedrouter.protocol.codec import (
    array_bytes,
    array_of,
    pack_reply,
    pack_request,
    unpack_reply,
    unpack_request,
)
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.secure_aggregation.messages import KeysOrder
from fedrouter.secure_aggregation.signatures import SigningKeys
from fedrouter.strategies import make_strategy
from support.scripted_clients import SHAPES, ScriptedClient, ScriptedEngine

Vanishes = Callable[[int, ClientRequest], bool]


def transported(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays after a way through Flower's records."""
    return {name: array_of(*array_bytes(array)) for name, array in arrays.items()}


class MaskedEngine(ScriptedEngine):
    """Sends requests to scripted clients, and their replies, as bytes.

    With `keys`, clients sign and verify; with a privacy budget, they add noise and count sums.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        clients: dict[int, ScriptedClient],
        folder: Path,
        dimension: int,
        vanishes: Vanishes = lambda client, request: False,
        keys: Mapping[int, SigningKeys] | None = None,
    ) -> None:
        super().__init__(config, lambda request, wire: wire)
        self.clients = clients
        self.vanishes = vanishes
        self.keys = keys or {}
        self.strategy = make_strategy(config)
        n_local, private = config.clustering.n_local, self.strategy.private_sums
        self.expected = ExpectedArrays(SHAPES, dimension, n_local, private)
        self.rules = sum_rules(config.privacy)
        self.folder = folder
        self.seen: list[tuple[ClientRequest, ClientReply]] = []

    def run(self, requests: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        for request in requests:
            if self.vanishes(request.client, request):
                yield Failure(request.client, request.round, "the node is gone")
                continue
            header, arrays = pack_request(request, "float32")
            self.traffic.down += sum(array.nbytes for array in arrays.values())
            arrived = unpack_request(header, transported(arrays))
            try:
                header, arrays = pack_reply(self.answer(arrived), "float32")
                self.traffic.up += sum(array.nbytes for array in arrays.values())
                most = self.expected.largest_reply(request)
                reply = unpack_reply(header, transported(arrays), most)
                self.seen.append((request, reply))
                yield reply
            except MessageError as error:
                yield Failure(request.client, request.round, str(error))

    def answer(self, request: ClientRequest) -> ClientReply:
        client, plan, releases = request.client, self.strategy.privacy, None
        if plan is not None:
            account = self.folder / f"releases-{client}.json"
            releases = ClientReleases(account, plan, f"secret of {client}")
        sums = SecureSums(
            client,
            self.folder / f"{client}",
            self.rules,
            keys=self.keys.get(client),
            run="run",
            releases=releases,
        )
        if not isinstance(request.sum_order, KeysOrder):
            return sums.answer(request)
        reply = self.clients[request.client].answer(request)
        return sums.begin(request, reply, self.expected, np.eye(self.expected.dimension))
