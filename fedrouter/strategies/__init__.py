"""Federated methods, one file per family, by the name that the key `strategy` gives them."""

from collections.abc import Callable

from fedrouter.config import Config
from fedrouter.strategies.base import ServerState, Strategy
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.fedrouter import FedRouter

# The configuration knows the names too, to report a wrong one together with all other faults.
STRATEGIES: dict[str, Callable[[Config], Strategy]] = {
    "fedrouter": FedRouter,
    "fedavg": FedAvg,
}


def make_strategy(config: Config) -> Strategy:
    """The strategy that `config.strategy` names."""
    return STRATEGIES[config.strategy](config)


__all__ = ["STRATEGIES", "ServerState", "Strategy", "make_strategy"]
