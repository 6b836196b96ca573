"""A request that its client had not answered when the round was closed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from fedrouter.protocol.messages import ClientReply, ClientRequest

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class OpenRequest:
    """A request whose reply is late. Until it arrives, its client is asked nothing else.

    Attributes:
        request: what was asked, with the adapters that are trained from; no evaluation.
        counts: the number of samples of each of the client's local tasks when it was asked; None:
            it had no profile.
        steps: adapter -> the steps to which updates of that round are normalized; empty: they are
            not.
        due: the simulated time at which the reply arrives; None: time is not simulated.
        seconds: the simulated time that the client takes.
        reply: the reply that arrives then; None: it is not known yet, or does not count.
    """

    request: ClientRequest
    counts: tuple[int, ...] | None
    steps: Mapping[str, float] = field(default_factory=dict)
    due: _Seconds | None = None
    seconds: _Seconds = 0.0
    reply: ClientReply | None = None

    @property
    def client(self) -> int:
        """The client's id."""
        return self.request.client
