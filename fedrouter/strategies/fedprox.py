"""FedProx (Li et al., "Federated Optimization in Heterogeneous Networks", 2020)."""

from pydantic import Field

from fedrouter.config import Section, register_strategy
from fedrouter.protocol.messages import Proximal, TrainOrder
from fedrouter.strategies.base import SHARED
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.state import ServerState


class FedProxSettings(Section):
    """The section `[strategies.fedprox]`."""

    proximal_weight: float = Field(
        default=0.01,
        ge=0,
        description="mu in the paper: the loss gets the additional term mu / 2 times the squared "
        "L2 distance between the adapter in training and the one received",
    )


@register_strategy("fedprox", settings=FedProxSettings)
class FedProx(FedAvg):
    """FedProx (Li et al., 2020): FedAvg with a proximal term in the loss,
    mu / 2 * ||w - w_global||^2, that limits how far clients drift apart."""

    settings: FedProxSettings

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Train the shared adapter on all of the client's samples, with the proximal term."""
        proximal = Proximal(self.settings.proximal_weight, toward=SHARED)
        return (TrainOrder((SHARED,), self.config.training.steps, proximal=proximal),)
