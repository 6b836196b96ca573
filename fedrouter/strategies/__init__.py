"""Federated methods, one file per family; each registers itself under its name."""

# The order of these imports is the order in which strategies are listed and compared.
# isort: off
from fedrouter.strategies.fedrouter import FedRouter
from fedrouter.strategies.local import Local
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.fedprox import FedProx
from fedrouter.strategies.finetune import FedAvgFT
from fedrouter.strategies.ditto import Ditto
from fedrouter.strategies.feddpa import FedDPA, FedDPAF
from fedrouter.strategies.fedsa import FedSA
from fedrouter.strategies.ffa import FFA
from fedrouter.strategies.clustered import Clustered
from fedrouter.strategies.ifca import IFCA
from fedrouter.strategies.fedrouter.oracle import Oracle
from fedrouter.strategies.centralized import Centralized
# isort: on

from typing import Any

from fedrouter.config import ResolvedConfig, registered
from fedrouter.strategies.base import Strategy
from fedrouter.strategies.compatibility import check_secure_aggregation
from fedrouter.strategies.fedrouter.state import TaskState
from fedrouter.strategies.state import ServerState


def strategy_class(name: str) -> type[Strategy[Any]]:
    """The strategy that is registered under a name, one of `fedrouter.config.strategy_names()`."""
    return registered()[name].cls


def make_strategy(config: ResolvedConfig) -> Strategy[Any]:
    """The strategy that `config.strategy` names.

    Raises:
        ConfigError: other settings do not suit it.
    """
    check_secure_aggregation(config)
    strategy: Strategy[Any] = registered()[config.strategy].factory(config)
    return strategy


__all__ = [
    "FFA",
    "IFCA",
    "Centralized",
    "Clustered",
    "Ditto",
    "FedAvg",
    "FedAvgFT",
    "FedDPA",
    "FedDPAF",
    "FedProx",
    "FedRouter",
    "FedSA",
    "Local",
    "Oracle",
    "ServerState",
    "Strategy",
    "TaskState",
    "make_strategy",
    "strategy_class",
]
