"""FedRouter: the paper's method (`paper.py`), what goes beyond it, and its oracle."""

from fedrouter.config import AUTO, ResolvedConfig, register_strategy
from fedrouter.strategies.fedrouter.paper import FedRouter
from fedrouter.strategies.fedrouter.private import PrivateFedRouter, SummedPrivateFedRouter
from fedrouter.strategies.fedrouter.refined import RefinedFedRouter
from fedrouter.strategies.fedrouter.summed import SummedFedRouter
from fedrouter.strategies.fedrouter.task_discovery import TaskDiscovery


def make_fedrouter(config: ResolvedConfig) -> FedRouter:
    """The variant of FedRouter that `[clustering]` and `[privacy]` ask for: the paper's, with a
    refined space, with task discovery, with differential privacy, or from sums over clients
    alone."""
    masked = config.privacy.secure_aggregation
    if config.privacy.epsilon is not None:
        return SummedPrivateFedRouter(config) if masked else PrivateFedRouter(config)
    if config.clustering.n_global == AUTO:
        return TaskDiscovery(config)
    if config.clustering.space == "raw":
        return FedRouter(config)
    return SummedFedRouter(config) if masked else RefinedFedRouter(config)


register_strategy("fedrouter", factory=make_fedrouter)(FedRouter)

__all__ = [
    "FedRouter",
    "PrivateFedRouter",
    "RefinedFedRouter",
    "SummedFedRouter",
    "SummedPrivateFedRouter",
    "TaskDiscovery",
    "make_fedrouter",
]
