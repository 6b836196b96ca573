"""The interface of an engine, which runs requests on clients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure


@dataclass
class Traffic:
    """Bytes of the arrays in all messages so far: from clients (up) and to clients (down)."""

    up: int = 0
    down: int = 0


class Engine(Protocol):
    """Runs requests on clients: in one process, in Flower's simulation or in its deployment.

    Attributes:
        traffic: bytes sent and received so far.
    """

    traffic: Traffic

    def online(self) -> Sequence[int]:
        """The ids of the clients that are online, in ascending order; may wait for clients."""

    def rank(self, client: int) -> int | None:
        """The rank of a client's adapters; None: that of the run."""

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        """Yield a reply or a `Failure` for each request, in the order of `tasks`."""
