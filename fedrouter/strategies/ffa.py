"""FFA-LoRA (Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", 2024)."""

from collections.abc import Iterable

from fedrouter.config import register_strategy
from fedrouter.protocol.messages import TrainOrder
from fedrouter.protocol.serving_rules import Serving, SingleAdapter
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies.base import SHARED, Strategy
from fedrouter.strategies.state import ServerState
from fedrouter.types import AdapterWeights, select_matrices


@register_strategy("ffa")
class FFA(Strategy[ServerState]):
    """FFA-LoRA (Sun et al., 2024): A keeps its initial value, the same on all clients; only B is
    trained, sent and averaged.

    The mean of the B is therefore the mean of the products B A. Clients derive A from the seed."""

    private = True

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> ServerState:
        """The shared adapter has only the matrices B."""
        return super().init(profiles, select_matrices(initial, "B"), base_fingerprint)

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Train B on all of the client's samples."""
        return (TrainOrder((SHARED,), self.config.training.steps, train_parts="B", send="B"),)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The averaged B with the initial A."""
        return SingleAdapter(SHARED)
