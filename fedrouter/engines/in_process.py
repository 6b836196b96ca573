"""All clients in this process, on one shared base model; their train jobs are fused."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, tee

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client, PreparedRequest
from fedrouter.errors import MessageError
from fedrouter.model.base_model import BaseModel
from fedrouter.model.memory import release_memory
from fedrouter.progress import Progress
from fedrouter.protocol.compression import TransportDtype, WeightsEncoder, compression_for
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure, is_work
from fedrouter.protocol.movement import with_weights
from fedrouter.protocol.sizes import array_bytes
from fedrouter.server.engine import Traffic
from fedrouter.training.trainer import (
    Checkpointing,
    TrainJob,
    TrainProgress,
    TrainResult,
    train,
)
from fedrouter.types import AdapterWeights


class InProcessEngine:
    """Maps requests over clients in one process.

    Adapters are rounded as the configured transport would round them, in both directions, so that
    results do not depend on the engine. An error in a client ends the run, except for an update
    that no message could carry.

    Args:
        base: the base model, shared by all clients.
        spec: the adapters' shape.
        clients: the clients by id.
        transport: the dtype in which adapters travel.
        fuse: number of adapters trained in one pass.
        initial: the run's initial adapter; adapters travel to clients as differences to it. None:
            as they are.
        checkpointing: gradient checkpointing, as for `train`.
        progress: receives the progress in requests, and the loss, after every step of training.
    """

    def __init__(
        self,
        base: BaseModel,
        spec: LoraSpec,
        clients: Mapping[int, Client],
        *,
        transport: TransportDtype,
        fuse: int,
        initial: AdapterWeights | None = None,
        checkpointing: Checkpointing = False,
        progress: Progress | None = None,
    ) -> None:
        self.base = base
        self.spec = spec
        self.clients = clients
        self.transport = transport
        self.fuse = fuse
        self.initial = initial
        self.checkpointing = checkpointing
        self.progress = progress or Progress()
        self.traffic = Traffic()

    def online(self) -> Sequence[int]:
        """All clients."""
        return sorted(self.clients)

    def rank(self, client: int) -> int | None:
        """The rank of a client's adapters; None: that of the run."""
        return self.clients[client].rank

    def run(self, requests: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        """The replies in the order of the requests; the train jobs of all of them are fused.

        Requests are prepared as far ahead as the fusion needs, so that memory does not grow with
        their number.
        """
        encoder = WeightsEncoder(self.initial)
        under_way, ahead = tee(self._prepare(request, encoder) for request in requests)
        shares: list[float] = []  # of each job drawn so far, in its request
        jobs, report = self._jobs(ahead, shares), partial(self._report, shares)
        results = train(
            self.base, self.spec, jobs, self.fuse, report, checkpointing=self.checkpointing
        )
        for request, prepared in zip(requests, under_way, strict=True):
            answer = self._answer(request, prepared, list(islice(results, len(prepared.jobs))))
            if not prepared.jobs and is_work(request):
                self.progress.advance(1)
            yield answer
        release_memory()

    def _jobs(self, requests: Iterable[PreparedRequest], shares: list[float]) -> Iterator[TrainJob]:
        """The train jobs of requests; adds the share of each in its request to `shares`."""
        for prepared in requests:
            for job in prepared.jobs:
                shares.append(1 / len(prepared.jobs))
                yield job

    def _report(self, shares: Sequence[float], step: TrainProgress) -> None:
        self.progress.advance(step.fraction * sum(shares[job] for job in step.jobs))
        self.progress.loss(step.loss)

    def _prepare(self, request: ClientRequest, encoder: WeightsEncoder) -> PreparedRequest:
        """What a client does about a request, with its adapters as they arrive."""
        adapters, transport = {}, compression_for(request, self.transport)
        for name, weights in request.adapters.items():
            adapters[name], size = encoder.transmit(weights, transport)
            self.traffic.down += size
        self.traffic.down += array_bytes(replace(request, adapters={}))
        return self.clients[request.client].prepare(replace(request, adapters=adapters))

    def _answer(
        self, request: ClientRequest, prepared: PreparedRequest, results: Sequence[TrainResult]
    ) -> ClientReply | Failure:
        """The reply to a request, with its adapters as they arrive."""
        updates, encoder = [], WeightsEncoder()
        try:
            reply = self.clients[request.client].finish(prepared, results)
            for update in reply.updates:
                weights, size = encoder.transmit(update.weights, self.transport)
                self.traffic.up += size
                updates.append(replace(update, weights=weights))
            self.traffic.up += array_bytes(replace(reply, updates=()))
            return with_weights(replace(reply, updates=tuple(updates)), request.adapters)
        except MessageError as error:
            return Failure(request.client, request.round, str(error))
