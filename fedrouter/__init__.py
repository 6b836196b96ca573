"""Federated fine-tuning of language models in which the unit of personalization is the task.

The public names are imported on first use: `import fedrouter` alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrouter.config import Config, Section, load_config, register_strategy
    from fedrouter.data.rows import Row
    from fedrouter.errors import FedRouterError
    from fedrouter.experiment import resume, run
    from fedrouter.inference.routed_model import RoutedModel
    from fedrouter.inference.types import Generation, Route
    from fedrouter.protocol.messages import TrainOrder
    from fedrouter.protocol.serving_rules import SingleAdapter
    from fedrouter.strategies import ServerState, Strategy

__version__ = "0.1.0"

_HOMES = {
    "Config": "config",
    "FedRouterError": "errors",
    "Generation": "inference.types",
    "Route": "inference.types",
    "RoutedModel": "inference.routed_model",
    "Row": "data.rows",
    "Section": "config",
    "ServerState": "strategies",
    "SingleAdapter": "protocol.serving_rules",
    "Strategy": "strategies",
    "TrainOrder": "protocol.messages",
    "load_config": "config",
    "register_strategy": "config",
    "resume": "experiment",
    "run": "experiment",
}

__all__ = [
    "Config",
    "FedRouterError",
    "Generation",
    "Route",
    "RoutedModel",
    "Row",
    "Section",
    "ServerState",
    "SingleAdapter",
    "Strategy",
    "TrainOrder",
    "load_config",
    "register_strategy",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fedrouter.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fedrouter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
