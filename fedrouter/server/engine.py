"""The interface of an engine, which runs requests on clients."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure
from fedrouter.protocol.open_requests import OpenRequest


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


@dataclass(frozen=True)
class Closing:
    """When the server stops waiting for replies.

    Attributes:
        wanted: when so many clients have replied.
        least: or, after the deadline, when so many have.
        deadline_s: seconds since the requests were sent; None: there is no deadline.
    """

    wanted: int
    least: int
    deadline_s: float | None = None

    def is_due(self, replied: int, seconds: float) -> bool:
        """Whether to stop waiting, with so many replies after so many seconds."""
        after = self.deadline_s is not None and seconds >= self.deadline_s
        return replied >= self.wanted or (after and replied >= self.least)


@dataclass(frozen=True)
class Late:
    """A client that has not answered a request before it was closed.

    Attributes:
        client: the client's id.
        due, seconds, reply: as in `OpenRequest`.
    """

    client: int
    due: float | None = None
    seconds: float = 0.0
    reply: ClientReply | None = None


@runtime_checkable
class TimedEngine(Engine, Protocol):
    """An engine whose clients take time, real or simulated, so that it need not wait for all.

    Attributes:
        simulated_s: simulated seconds since the run began; None: time is real.
        durations: client -> the seconds that its last reply took.
    """

    simulated_s: float | None
    durations: Mapping[int, float]

    def run_until(
        self, tasks: Sequence[ClientRequest], closing: Closing
    ) -> Iterator[ClientReply | Failure | Late]:
        """As `run`, but waits no longer than `closing` says; yields a `Late` for each client that
        has not answered by then."""

    def arrived(
        self, requests: Sequence[OpenRequest]
    ) -> Mapping[int, ClientReply | Failure | None]:
        """The answers to open requests that have arrived by now, by client; None: an answer that
        does not count."""


def simulated_seconds(engine: Engine) -> float | None:
    """Simulated seconds since the run began; None: time is not simulated."""
    return engine.simulated_s if isinstance(engine, TimedEngine) else None
