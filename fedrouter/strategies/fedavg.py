"""FedAvg (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", 2017) of LoRA adapters, as in FedIT (Zhang et al., "Towards Building the Federated GPT:
Federated Instruction Tuning", 2024)."""

from fedrouter.config import register_strategy
from fedrouter.protocol.messages import TrainOrder
from fedrouter.protocol.serving_rules import Serving, SingleAdapter
from fedrouter.strategies.base import SHARED, Strategy
from fedrouter.strategies.state import ServerState


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
