"""FedProx (Li et al., "Federated Optimization in Heterogeneous Networks", 2020): FedAvg whose
clients do not stray far."""

from fedrouter.protocol.messages import Proximal, TrainOrder
from fedrouter.strategies.base import SHARED, ServerState
from fedrouter.strategies.fedavg import FedAvg


class FedProx(FedAvg):
    """The loss has mu / 2 * ||w - w_global||^2 more, with mu = `baselines.prox_mu`."""

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """All of the client's samples, near the received adapter."""
        proximal = Proximal(self.config.baselines.prox_mu, toward=SHARED)
        return (TrainOrder((SHARED,), self.config.training.steps, proximal=proximal),)
