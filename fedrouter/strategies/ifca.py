"""IFCA (Ghosh et al., "An Efficient Framework for Clustered Federated Learning", 2020)."""

from collections.abc import Iterable

from pydantic import Field

from fedrouter.config import ResolvedConfig, Section, register_strategy
from fedrouter.config.sections.base import Count
from fedrouter.protocol.messages import TrainOrder
from fedrouter.protocol.serving_rules import LowestLoss, Serving
from fedrouter.routing.types import TaskProfile
from fedrouter.seeding import generator
from fedrouter.strategies.base import Strategy, cluster_names
from fedrouter.strategies.state import ServerState
from fedrouter.types import AdapterWeights


class IFCASettings(Section):
    """The section `[strategies.ifca]`."""

    clusters: Count = Field(
        default=4, description="k in the paper: number of clusters of clients, each with an adapter"
    )


@register_strategy("ifca", settings=IFCASettings)
class IFCA(Strategy[ServerState]):
    """IFCA (Ghosh et al., 2020): K adapters; in every round a client trains the one with the lowest
    loss on its samples.

    LoRA's B is initialized with zero, so at first all K adapters have the same loss. In round 1
    the clients, in a seeded random order, are therefore assigned to the adapters in turn, so that
    every adapter is trained by some client.
    """

    settings: IFCASettings

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config)
        self.names = cluster_names(self.settings.clusters)
        draws = generator(config.seed, "ifca")
        self._places: list[int] = draws.permutation(config.federation.clients).tolist()

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> ServerState:
        """K copies of the initial adapter."""
        adapters = dict.fromkeys(self.names, initial)
        return ServerState(round=0, base=base_fingerprint, adapters=adapters)

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """In round 1 the assigned adapter, then the one with the lowest loss."""
        offered = (self.dealt(client),) if round == 1 else self.names
        return (TrainOrder(offered, self.config.training.steps),)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The adapter with the lowest loss on the client's training data."""
        return LowestLoss(self.names)

    def dealt(self, client: int) -> str:
        """The adapter that a client trains in round 1."""
        return self.names[self._places[client % len(self._places)] % len(self.names)]
