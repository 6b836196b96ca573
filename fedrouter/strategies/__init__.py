"""Federated methods, one file per family, by the name that the key `strategy` gives them."""

from collections.abc import Callable
from difflib import get_close_matches

from fedrouter.config import Config
from fedrouter.errors import ConfigError
from fedrouter.strategies.base import ServerState, Strategy
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.fedrouter import FedRouter

STRATEGIES: dict[str, Callable[[Config], Strategy]] = {
    "fedrouter": FedRouter,
    "fedavg": FedAvg,
}


def make_strategy(config: Config) -> Strategy:
    """The strategy that `config.strategy` names.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.strategy not in STRATEGIES:
        near = get_close_matches(config.strategy, STRATEGIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"strategy = {config.strategy!r} is not one of {', '.join(STRATEGIES)}{hint}"
        )
    return STRATEGIES[config.strategy](config)


__all__ = ["STRATEGIES", "ServerState", "Strategy", "make_strategy"]
