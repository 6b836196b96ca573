"""Clients behind Flower's SuperLink: one message per client and round.

Each node is one client, which says its id when it is first seen. The SuperLink is asked for the
reply to one message at a time: a reply counts as the answer to that message, whatever it says
itself, and one that Flower cannot read costs no other client its reply. What does not come, or is
not usable, is a `Failure` of its client alone. A message whose exchange was closed before its reply
came stays open until then, or until `federation.timeout_s`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrouter.config import ResolvedConfig, dump_config
from fedrouter.engines.flower.greeting import REFUSED, read_greeting
from fedrouter.engines.flower.records import UNREADABLE, from_records, to_records
from fedrouter.errors import MessageError
from fedrouter.protocol.codec import pack_request, unpack_reply
from fedrouter.protocol.compression import WeightsEncoder
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure, is_work
from fedrouter.protocol.movement import with_weights
from fedrouter.protocol.open_requests import OpenRequest
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.server.engine import Closing, Late, Traffic
from fedrouter.types import AdapterWeights

POLL_S = 0.2
FLOWER_ERRORS = {
    1: "its ClientApp could not be loaded",
    2: "its ClientApp failed",
    3: "the message was lost",
    4: "the reply was lost",
    5: "the node is gone",
    8: "its process crashed",
}


@dataclass(frozen=True)
class Sent:
    """A request that was sent.

    Attributes:
        task: the request.
        id: of its message.
        at: when it was sent, by the monotonic clock.
    """

    task: ClientRequest
    id: str
    at: float


class FlowerEngine:
    """Maps tasks over the nodes of a Flower federation.

    Args:
        grid: Flower's view of the nodes.
        config: the run's resolved configuration, which is sent along.
        expected: what the arrays of replies look like; larger replies are refused unread.
        fingerprint: the base model's; replies from another one are refused.
        initial: the run's initial adapter; adapters travel to clients as differences to it.
        folder: where clients keep what must outlive their process, for nodes that name no folder of
            their own (in a simulation).
        progress: called with the number of tasks done since its last call.
    """

    def __init__(
        self,
        grid: Grid,
        config: ResolvedConfig,
        *,
        expected: ExpectedArrays,
        fingerprint: str,
        initial: AdapterWeights,
        folder: str = "",
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.traffic = Traffic()
        self.simulated_s: float | None = None
        self.durations: dict[int, float] = {}
        self._grid = grid
        self._config = config
        self._expected = expected
        self._texts = {"config": dump_config(config), "folder": folder}
        self._fingerprint = fingerprint
        self._initial = initial
        self._progress = progress
        self._clients: dict[int, int] = {}  # node -> client, or REFUSED
        self._ranks: dict[int, int] = {}  # client -> the rank of its adapters, if not the run's
        self._greeted: dict[str, int] = {}  # greeting without an answer -> node
        self._open: dict[int, Sent] = {}  # client -> the request whose reply is late
        self._arrived: dict[int, ClientReply | Failure] = {}  # late answers, by client
        self._wanted = config.federation.clients  # all of them, once; then the minimum

    def online(self) -> Sequence[int]:
        """The clients whose nodes are connected, in order.

        The first call waits for all `federation.clients`, later ones for `federation.min_clients`;
        none longer than `federation.wait_s`.
        """
        end = time.monotonic() + self._config.federation.wait_s
        while True:
            nodes = set(self._grid.get_node_ids())
            self._greet(sorted(nodes - self._clients.keys() - set(self._greeted.values())))
            self._hear(nodes)
            here = {c for node, c in self._clients.items() if node in nodes and c >= 0}
            if len(here) >= self._wanted or time.monotonic() >= end:
                self._wanted = self._config.federation.min_clients
                return sorted(here)
            time.sleep(POLL_S)

    def rank(self, client: int) -> int | None:
        """The rank of a client's adapters, as its node says; None: that of the run."""
        return self._ranks.get(client)

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        """The replies in the order of the tasks, each as soon as those before it are there."""
        for sent in self._send(tasks):
            while (answer := self._poll(sent)) is None:
                time.sleep(POLL_S)
            self._progress(int(is_work(sent.task)))
            yield answer

    def run_until(
        self, tasks: Sequence[ClientRequest], closing: Closing
    ) -> Iterator[ClientReply | Failure | Late]:
        """The replies in the order of the tasks, after the last that is waited for. Without any
        task, as when all clients are busy, the first late reply is waited for."""
        began, answers = time.monotonic(), dict[int, ClientReply | Failure]()
        waiting = {sent.task.client: sent for sent in self._send(tasks)}
        for client in waiting:  # what it may still say to an earlier request counts no more
            self._open.pop(client, None)
            self._arrived.pop(client, None)

        def is_done() -> bool:
            if not tasks:
                return bool(self._arrived) or not self._open
            replied = sum(isinstance(answer, ClientReply) for answer in answers.values())
            return not waiting or closing.is_due(replied, time.monotonic() - began)

        while not is_done():
            time.sleep(POLL_S)
            answered = self._take(waiting)
            self._progress(len(answered))
            answers |= answered
            self._arrived |= self._take(self._open)
        self._open |= waiting
        for task in tasks:
            yield answers.get(task.client) or Late(task.client)

    def arrived(
        self, requests: Sequence[OpenRequest]
    ) -> Mapping[int, ClientReply | Failure | None]:
        """The answers to open requests that are there; of one that no message of this process
        asks, as after a restart of the server, no answer will come."""
        self._arrived |= self._take(self._open)
        clients = [one.client for one in requests if one.client not in self._open]
        return {client: self._arrived.pop(client, None) for client in clients}

    def _take(self, waiting: dict[int, Sent]) -> dict[int, ClientReply | Failure]:
        """The answers that are there, by client; they are removed from those waited for."""
        polled = {client: self._poll(sent) for client, sent in waiting.items()}
        found = {client: answer for client, answer in polled.items() if answer is not None}
        for client in found:
            del waiting[client]
        return found

    def _send(self, tasks: Sequence[ClientRequest]) -> list[Sent]:
        """Send the requests."""
        nodes = {client: node for node, client in self._clients.items()}
        messages, encoder = [], WeightsEncoder(self._initial)
        for task in tasks:
            header, arrays = pack_request(task, self._config.federation.transport, encoder)
            self.traffic.down += sum(array.nbytes for array in arrays.values())
            content = to_records({**self._texts, "task": header}, arrays)
            messages.append(
                self._message(content, MessageType.TRAIN, nodes[task.client], task.round)
            )
        ids = self._push(messages) if messages else []
        now = time.monotonic()
        return [Sent(task, id, now) for task, id in zip(tasks, ids, strict=True)]

    def _greet(self, nodes: Sequence[int]) -> None:
        """Ask new nodes which client they are."""
        content = to_records(self._texts, {})
        messages = [self._message(content, MessageType.QUERY, node, 0) for node in nodes]
        if messages:
            self._greeted |= dict(zip(self._push(messages), nodes, strict=True))

    def _hear(self, nodes: set[int]) -> None:
        """Take the answers of greeted nodes. One that says what another node that is there has
        said, or no id below `federation.clients`, is left out."""
        for id, node in list(self._greeted.items()):
            try:
                reply = self._pull(id)
                if reply is None:
                    continue
                client, rank = read_greeting(reply)
            except MessageError:
                client, rank = REFUSED, None
            del self._greeted[id]
            before = [n for n, c in self._clients.items() if c == client]
            for old in set(before) - nodes:  # the client is back on another node
                del self._clients[old]
            known = client < self._config.federation.clients
            fit = known and not nodes.intersection(before)
            self._clients[node] = client if fit else REFUSED
            if fit:
                self._ranks.pop(client, None)
                if rank is not None:
                    self._ranks[client] = rank

    def _message(self, content: RecordDict, kind: str, node: int, round: int) -> Message:
        return Message(content, node, kind, group_id=str(round))

    def _push(self, messages: list[Message]) -> list[str]:
        """Send messages; returns an id for each, by which replies refer to it."""
        self._grid.push_messages(messages)
        return [message.metadata.message_id for message in messages]

    def _pull(self, id: str) -> Message | None:
        """The reply to the message with an id; None if it is not there yet.

        Raises:
            MessageError: Flower cannot read it.
        """
        try:
            return next(iter(self._grid.pull_messages([id])), None)
        except UNREADABLE as error:
            raise MessageError(f"the reply cannot be read ({type(error).__name__})") from None

    def _poll(self, sent: Sent) -> ClientReply | Failure | None:
        """The reply to a request, or the reason why there is none; None: it may still come."""
        task, limit = sent.task, self._config.federation.timeout_s
        seconds = time.monotonic() - sent.at
        try:
            message = self._pull(sent.id)
            if message is not None:
                self.durations[task.client] = seconds
                return self._read(task, message)
            if seconds < limit:
                return None
            reason = f"no reply within federation.timeout_s = {limit:g}"
        except MessageError as error:
            reason = str(error)
        except UNREADABLE as error:  # a fault that no check has found
            reason = f"the reply cannot be read ({type(error).__name__})"
        return Failure(task.client, task.round, reason)

    def _read(self, task: ClientRequest, message: Message) -> ClientReply:
        """The reply in a message.

        Raises:
            MessageError: there is none, Flower reports an error, of which only the code is used, or
                the client does.
        """
        if message.has_error():
            code = message.error.code
            raise MessageError(FLOWER_ERRORS.get(code, f"Flower error {code}"))
        texts, arrays = from_records(message.content)
        if "error" in texts:
            raise MessageError(texts["error"])
        if texts.get("base") != self._fingerprint:
            raise MessageError(
                "the client has another base model than the server; start its node with the same "
                "one, quantized alike unless federation.mixed_quantization is set"
            )
        most = self._expected.largest_reply(task)
        reply = unpack_reply(texts.get("reply", ""), arrays, most)
        self.traffic.up += sum(array.nbytes for array in arrays.values())
        return with_weights(reply, task.adapters)
