"""All clients in this process, on one resident base model; their train jobs are fused."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, tee

import numpy as np

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client, PreparedRequest
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.codec import places_out
from fedrouter.protocol.compression import TransportDtype, compression_for, decode, encode
from fedrouter.protocol.messages import ClientReply, ClientRequest, OrderWithGeometry, RouteByTask
from fedrouter.routing.types import TaskGeometry
from fedrouter.server.engine import Traffic
from fedrouter.training.trainer import train
from fedrouter.types import AdapterWeights


class InProcessEngine:
    """Maps tasks over clients in one process.

    Adapters are rounded as the configured transport would round them, in both directions, so that
    results do not depend on the engine. A client that fails ends the run: it is this process's own.

    Args:
        base: the base model, shared by all clients.
        spec: the adapters' shape.
        clients: the clients by id.
        transport: how adapters travel.
        fuse: adapters trained in one pass.
        progress: called with the number of tasks done since its last call.
    """

    def __init__(
        self,
        base: BaseModel,
        spec: LoraSpec,
        clients: Mapping[int, Client],
        *,
        transport: TransportDtype,
        fuse: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.base = base
        self.spec = spec
        self.clients = clients
        self.transport = transport
        self.fuse = fuse
        self.progress = progress
        self.traffic = Traffic()

    def online(self) -> Sequence[int]:
        """All clients."""
        return sorted(self.clients)

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply]:
        """The replies in the order of the tasks; the train jobs of all of them are fused.

        Tasks are prepared as far ahead as the fusion needs, so that memory does not grow with them.
        """
        under_way, ahead = tee(self._prepare(task) for task in tasks)
        jobs = (job for prepared in ahead for job in prepared.jobs)
        results = train(self.base, self.spec, jobs, self.fuse)
        for prepared in under_way:
            client = self.clients[prepared.request.client]
            reply = client.finish(prepared, list(islice(results, len(prepared.jobs))))
            self.progress(1)
            yield self._send_up(reply)

    def _prepare(self, task: ClientRequest) -> PreparedRequest:
        adapters, transport = {}, compression_for(task, self.transport)
        for name, weights in task.adapters.items():
            adapters[name], size = _travel(weights, transport)
            self.traffic.down += size
        if task.evaluate is not None and isinstance(task.evaluate.serving, RouteByTask):
            self.traffic.down += places_bytes(task.evaluate.serving.geometry)
        if isinstance(task.profile, OrderWithGeometry):
            self.traffic.down += places_bytes(task.profile.geometry)
        return self.clients[task.client].prepare(replace(task, adapters=adapters))

    def _send_up(self, reply: ClientReply) -> ClientReply:
        if reply.profile is not None:
            self.traffic.up += array_bytes(reply.profile)
            if reply.profile.scatter is not None:
                self.traffic.up += array_bytes(reply.profile.scatter)
        updates = []
        for update in reply.updates:
            weights, size = _travel(update.weights, self.transport)
            self.traffic.up += size
            updates.append(replace(update, weights=weights))
        return replace(reply, updates=tuple(updates))


def _travel(weights: AdapterWeights, transport: TransportDtype) -> tuple[AdapterWeights, int]:
    """Weights as the other side sees them, and the bytes they took."""
    encoded = encode(weights, transport)
    return decode(encoded), encoded.nbytes


def places_bytes(geometry: TaskGeometry) -> int:
    """Bytes of the arrays of `geometry` as they travel."""
    return sum(array.nbytes for array in places_out("", geometry).values())


def array_bytes(message: object) -> int:
    """Bytes of a message's own arrays."""
    return sum(value.nbytes for value in vars(message).values() if isinstance(value, np.ndarray))
