"""The contract of an engine: a map over clients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure


@dataclass
class Traffic:
    """Bytes of arrays that crossed the wire so far: from clients (up) and to them (down)."""

    up: int = 0
    down: int = 0


class Engine(Protocol):
    """Runs tasks where the clients are.

    Attributes:
        traffic: what the messages weighed so far.
    """

    traffic: Traffic

    def online(self) -> Sequence[int]:
        """The ids of the clients that can be asked now, in order; waits for them where it must."""

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        """An answer to each of `tasks`, in their order; a `Failure` costs its client's part."""
