"""The rules by which a client answers prompts with the adapters that it receives and keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from fedrouter.routing.types import ReceivedGeometry, RoutingPolicy
from fedrouter.types import Name


@dataclass(frozen=True)
class SingleAdapter:
    """Answer every prompt with one adapter: the initial one, overlaid with the received `adapter`
    and with what the client kept under `keep` (either may be None).

    >>> from fedrouter import SingleAdapter
    >>> SingleAdapter("global", keep="personal").needs
    ('global',)
    """

    adapter: Name | None = None
    keep: Name | None = None
    kind: Literal["single_adapter"] = "single_adapter"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return () if self.adapter is None else (self.adapter,)


@dataclass(frozen=True)
class RouteByTask:
    """Answer a prompt with the adapter of the task whose centroid is nearest.

    Attributes:
        geometry: where the tasks lie; their names are keys of the received adapters.
        own: the client's own tasks, the only ones offered in scope "local".
        policy: how many adapters are mixed, and what answers an out-of-distribution prompt.
    """

    geometry: ReceivedGeometry
    own: tuple[Name, ...]
    policy: RoutingPolicy = field(default_factory=RoutingPolicy)
    kind: Literal["route_by_task"] = "route_by_task"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return self.geometry.tasks


@dataclass(frozen=True)
class TrueTask:
    """Answer a prompt with the adapter of its true task (the oracle): true name -> adapter."""

    adapters: Mapping[str, Name]
    kind: Literal["true_task"] = "true_task"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return tuple(sorted(set(self.adapters.values())))


@dataclass(frozen=True)
class InstanceMixture:
    """Answer with a mixture of the kept and the received adapter that depends on the prompt
    (FedDPA).

    The kept adapter's weight is `scale` times the mean cosine between the prompt and `samples`
    random training prompts of the client, by the last token's hidden state.
    """

    adapter: Name
    keep: Name
    scale: Annotated[float, Field(ge=0, le=1)]
    samples: Annotated[int, Field(ge=1)]
    kind: Literal["instance_mixture"] = "instance_mixture"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return (self.adapter,)


@dataclass(frozen=True)
class LowestLoss:
    """Answer with the received adapter that has the lowest loss on the client's training data."""

    adapters: tuple[Name, ...]
    kind: Literal["lowest_loss"] = "lowest_loss"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return self.adapters


Serving = SingleAdapter | RouteByTask | TrueTask | InstanceMixture | LowestLoss
