"""FedSA-LoRA (Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning",
2025)."""

from collections.abc import Iterable

from fedrouter.config import register_strategy
from fedrouter.protocol.messages import TrainOrder
from fedrouter.protocol.serving_rules import Serving, SingleAdapter
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies.base import PERSONAL, SHARED, Strategy
from fedrouter.strategies.state import ServerState
from fedrouter.types import AdapterWeights, select_matrices


@register_strategy("fedsa")
class FedSA(Strategy[ServerState]):
    """FedSA-LoRA (Guo et al., 2025): both LoRA matrices are trained; A is averaged over the
    clients, B stays with the client."""

    personalized = True

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> ServerState:
        """The shared adapter has only the matrices A."""
        return super().init(profiles, select_matrices(initial, "A"), base_fingerprint)

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Train the averaged A with the client's B; a new client's B is zero."""
        steps = self.config.training.steps
        return (TrainOrder((SHARED,), steps, keep=PERSONAL, keep_parts="B", send="A"),)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The averaged A with the client's B."""
        return SingleAdapter(SHARED, keep=PERSONAL)
