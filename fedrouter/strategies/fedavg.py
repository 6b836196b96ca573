"""FedAvg of LoRA adapters (FedIT): one adapter for everything, averaged over the clients."""

from fedrouter.protocol.messages import Serving, SingleAdapter, TrainOrder
from fedrouter.strategies.base import SHARED, ServerState, Strategy


class FedAvg(Strategy[ServerState]):
    """A and B of one adapter are averaged with the clients' shares of the samples."""

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """All of the client's samples."""
        return (TrainOrder((SHARED,), self.config.training.steps),)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The averaged adapter."""
        return SingleAdapter(SHARED)
