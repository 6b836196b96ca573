"""FedRouter: the paper's method (`paper.py`), what goes beyond it, and its oracle."""

from fedrouter.config import AUTO, ResolvedConfig, register_strategy
from fedrouter.strategies.fedrouter.paper import FedRouter
from fedrouter.strategies.fedrouter.private import PrivateFedRouter
from fedrouter.strategies.fedrouter.refined import RefinedFedRouter
from fedrouter.strategies.fedrouter.task_discovery import TaskDiscovery


def make_fedrouter(config: ResolvedConfig) -> FedRouter:
    """The variant of FedRouter that the configuration asks for: the paper's, with a refined space,
    with task discovery, or with differential privacy."""
    if config.privacy.epsilon is not None:
        return PrivateFedRouter(config)
    if config.clustering.n_global == AUTO:
        return TaskDiscovery(config)
    if config.clustering.space == "raw":
        return FedRouter(config)
    return RefinedFedRouter(config)


register_strategy("fedrouter", factory=make_fedrouter)(FedRouter)

__all__ = ["FedRouter", "PrivateFedRouter", "RefinedFedRouter", "TaskDiscovery", "make_fedrouter"]
