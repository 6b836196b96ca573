"""FFA-LoRA (Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", 2024)."""

from collections.abc import Iterable

from fedrouter.protocol.messages import Serving, SingleAdapter, TrainOrder
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies.base import SHARED, ServerState, Strategy
from fedrouter.types import AdapterWeights, select_matrices


class FFA(Strategy[ServerState]):
    """A stays at its first value, the same everywhere, so that the mean of the B is the mean of the
    products B A. Only B is trained and travels; clients derive A themselves."""

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> ServerState:
        """The shared adapter is a B without an A."""
        return super().init(profiles, select_matrices(initial, "B"), base_fingerprint)

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """B, on all of the client's samples."""
        return (TrainOrder((SHARED,), self.config.training.steps, train_parts="B", send="B"),)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The averaged B with the initial A."""
        return SingleAdapter(SHARED)
