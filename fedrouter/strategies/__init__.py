"""Federated methods, one file per family, by the name that the key `strategy` gives them."""

from typing import Any

from fedrouter.config import Config
from fedrouter.strategies.base import ServerState, Strategy
from fedrouter.strategies.centralised import Centralised
from fedrouter.strategies.clustered import Clustered
from fedrouter.strategies.ditto import Ditto
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.feddpa import FedDPA, FedDPAF
from fedrouter.strategies.fedprox import FedProx
from fedrouter.strategies.fedrouter import FedRouter, make_fedrouter
from fedrouter.strategies.fedrouter.oracle import Oracle
from fedrouter.strategies.fedrouter.state import TaskState
from fedrouter.strategies.fedsa import FedSA
from fedrouter.strategies.ffa import FFA
from fedrouter.strategies.finetune import FedAvgFT
from fedrouter.strategies.ifca import IFCA
from fedrouter.strategies.local import Local

# The configuration knows the names too, to report a wrong one together with all other faults.
STRATEGIES: dict[str, type[Strategy[Any]]] = {
    "fedrouter": FedRouter,
    "local": Local,
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavg-ft": FedAvgFT,
    "ditto": Ditto,
    "feddpa": FedDPA,
    "feddpa-f": FedDPAF,
    "fedsa": FedSA,
    "ffa": FFA,
    "clustered": Clustered,
    "ifca": IFCA,
    "oracle": Oracle,
    "centralised": Centralised,
}


def make_strategy(config: Config) -> Strategy[Any]:
    """The strategy that `config.strategy` names.

    Raises:
        ConfigError: other settings do not suit it.
    """
    method = STRATEGIES[config.strategy]
    return make_fedrouter(config) if method is FedRouter else method(config)


__all__ = ["STRATEGIES", "ServerState", "Strategy", "TaskState", "make_strategy"]
