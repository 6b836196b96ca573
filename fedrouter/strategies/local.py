"""Local training, as in FedIT (Zhang et al., "Towards Building the Federated GPT: Federated
Instruction Tuning", 2024): the baseline without federation."""

from collections.abc import Iterable

from fedrouter.config import register_strategy
from fedrouter.protocol.messages import TrainOrder
from fedrouter.protocol.serving_rules import Serving, SingleAdapter
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies.base import PERSONAL, Strategy
from fedrouter.strategies.state import ServerState
from fedrouter.types import AdapterWeights


@register_strategy("local")
class Local(Strategy[ServerState]):
    """Local training, the baseline without federation (as in FedIT: Zhang et al., 2024): every
    client trains its own adapter on its own samples and sends nothing."""

    personalized = True

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> ServerState:
        """There are no shared adapters; clients derive the initial adapter from the seed."""
        return ServerState(round=0, base=base_fingerprint, adapters={})

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """The client's own adapter, on all of its samples."""
        return (TrainOrder((), self.config.training.steps, keep=PERSONAL, send=""),)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The client's own adapter."""
        return SingleAdapter(keep=PERSONAL)
