"""FedAvg (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", 2017) of LoRA adapters, as in FedIT (Zhang et al., "Towards Building the Federated GPT:
Federated Instruction Tuning", 2024)."""

from fedrouter.config import register_strategy
from fedrouter.protocol.messages import Serving, SingleAdapter, TrainOrder
from fedrouter.strategies.base import SHARED, ServerState, Strategy


@register_strategy("fedavg")
class FedAvg(Strategy[ServerState]):
    """FedAvg of LoRA adapters (McMahan et al., 2017; FedIT: Zhang et al., 2024): one adapter for
    all clients, A and B averaged with weights proportional to the clients' numbers of samples."""

    private = True

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Train the shared adapter on all of the client's samples."""
        return (TrainOrder((SHARED,), self.config.training.steps),)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The averaged adapter."""
        return SingleAdapter(SHARED)
