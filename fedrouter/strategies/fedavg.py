"""FedAvg of LoRA adapters (FedIT): one adapter for everything, averaged over the clients.

It is FedRouter with a single global task, whose clients train on all their samples at once.
"""

from fedrouter.messages import TrainOrder
from fedrouter.strategies.base import ServerState
from fedrouter.strategies.fedrouter import FedRouter


class FedAvg(FedRouter):
    """One adapter, weighted by the clients' samples."""

    @property
    def n_global(self) -> int:
        """One global task."""
        return 1

    def orders(self, state: ServerState, client: int) -> tuple[TrainOrder, ...]:
        """One order on all samples, of as many steps as FedRouter's local tasks take together."""
        tasks = state.assignment[client]
        return (
            TrainOrder(tasks[0], local_task=None, steps=self.config.training.steps * len(tasks)),
        )
