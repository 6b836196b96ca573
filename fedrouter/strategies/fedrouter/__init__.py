"""FedRouter: the paper's method (`paper.py`), what goes beyond it, and its oracle."""

from fedrouter.config import AUTO, ResolvedConfig, register_strategy
from fedrouter.strategies.fedrouter.paper import FedRouter
from fedrouter.strategies.fedrouter.refined import RefinedFedRouter
from fedrouter.strategies.fedrouter.task_discovery import TaskDiscovery


def make_fedrouter(config: ResolvedConfig) -> FedRouter:
    """The variant of FedRouter that `[clustering]` asks for: the paper's, with a refined space, or
    with task discovery."""
    if config.clustering.n_global == AUTO:
        return TaskDiscovery(config)
    if config.clustering.space == "raw":
        return FedRouter(config)
    return RefinedFedRouter(config)


register_strategy("fedrouter", factory=make_fedrouter)(FedRouter)

__all__ = ["FedRouter", "RefinedFedRouter", "TaskDiscovery", "make_fedrouter"]
