"""All clients in this process, on one resident base model; their train jobs are fused."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from fedrouter.client import Client
from fedrouter.engines.base import Traffic
from fedrouter.lora import LoraSpec
from fedrouter.messages import ClientReply, ClientTask, Weights
from fedrouter.model import BaseModel
from fedrouter.training import train
from fedrouter.transport import Transport, decode, encode


class InProcessEngine:
    """Maps tasks over clients in one process.

    Adapters are rounded as the configured transport would round them, in both directions, so that
    results do not depend on the engine.
    """

    def __init__(
        self,
        base: BaseModel,
        spec: LoraSpec,
        clients: Mapping[int, Client],
        *,
        transport: Transport,
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

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReply]:
        """The replies in the order of the tasks; the train jobs of all of them are fused."""
        received = [self._send_down(task) for task in tasks]
        jobs = (job for task in received for job in self.clients[task.client].prepare(task))
        results = train(self.base, self.spec, jobs, self.fuse)
        for task in received:
            client = self.clients[task.client]
            if task.profile is not None:
                profile = client.profile(task.profile, self.progress)
                self.traffic.up += profile.centroids.nbytes
                yield ClientReply(client.id, task.round, profile=profile)
            else:
                reply = client.finish(task, list(islice(results, len(task.train))))
                self.progress(1)
                yield self._send_up(reply)

    def _send_down(self, task: ClientTask) -> ClientTask:
        adapters = {}
        for name, weights in task.adapters.items():
            adapters[name], size = self._travel(weights)
            self.traffic.down += size
        return replace(task, adapters=adapters)

    def _send_up(self, reply: ClientReply) -> ClientReply:
        updates = []
        for update in reply.updates:
            weights, size = self._travel(update.weights)
            self.traffic.up += size
            updates.append(replace(update, weights=weights))
        return replace(reply, updates=tuple(updates))

    def _travel(self, weights: Weights) -> tuple[Weights, int]:
        """Weights as the other side sees them, and the bytes they took."""
        encoded = encode(weights, self.transport)
        return decode(encoded), encoded.nbytes
