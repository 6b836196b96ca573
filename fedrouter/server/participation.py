"""Which clients are asked in a round, and how long the server waits for them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from fedrouter.config import FederationConfig, ResolvedConfig
from fedrouter.protocol.messages import ClientRequest
from fedrouter.seeding import generator
from fedrouter.server.engine import Closing
from fedrouter.server.step_budget import limit_steps
from fedrouter.strategies import ServerState, Strategy

ROUNDING = 1e-9  # of over_selection * clients: 1.1 * 10 is a little more than 11


def wanted_number(settings: FederationConfig, online: int) -> int:
    """The number of replies that a round needs: `federation.fraction` of the clients online, but at
    least `federation.min_clients`."""
    return max(settings.min_clients, int(settings.fraction * online + 0.5))


def asked_number(settings: FederationConfig, online: int) -> int:
    """The number of clients that a round asks: those that it needs times
    `federation.over_selection`."""
    return ceil(settings.over_selection * wanted_number(settings, online) - ROUNDING)


def participants(
    config: ResolvedConfig, round: int, online: Sequence[int], busy: Collection[int] = ()
) -> list[int]:
    """The clients that a round asks, in ascending order: a seeded random sample of the clients
    online that are not busy.

    Args:
        config: the run's configuration.
        round: the round.
        online: the clients online.
        busy: the clients that owe a reply to an earlier request.
    """
    free = [client for client in online if client not in busy]
    number = min(asked_number(config.federation, len(online)), len(free))
    if not number:
        return []
    draws = generator(config.seed, "participants", round)
    return sorted(draws.choice(free, size=number, replace=False).tolist())


def busy_clients(state: ServerState) -> frozenset[int]:
    """The clients that owe a reply to an earlier request."""
    return frozenset(one.client for one in state.open_requests)


@dataclass(frozen=True)
class Asked:
    """What a round asks.

    Attributes:
        clients: the clients that are asked, in ascending order.
        requests: one for each.
        closing: when the round is closed; None: when all have answered.
    """

    clients: list[int]
    requests: Sequence[ClientRequest]
    closing: Closing | None


def ask_clients(
    strategy: Strategy[Any], state: ServerState, round: int, online: Sequence[int]
) -> Asked:
    """Choose the clients of a round, and what they are asked.

    Args:
        strategy: the method.
        state: the state before the round.
        round: the round.
        online: the clients online.
    """
    settings = strategy.config.federation
    clients = participants(strategy.config, round, online, busy_clients(state))
    requests: Sequence[ClientRequest] = strategy.plan(state, round, clients)
    if settings.equal_time:
        requests = limit_steps(requests, state.speeds)
    return Asked(clients, requests, round_closing(settings, len(clients), len(online)))


def round_closing(settings: FederationConfig, asked: int, online: int) -> Closing | None:
    """When a round is closed; None: when all clients have answered.

    Args:
        settings: the section `[federation]`.
        asked: the number of clients asked.
        online: the number of clients online.
    """
    if not settings.timed:
        return None
    wanted = min(asked, wanted_number(settings, online))
    return Closing(wanted, min(asked, settings.min_clients), settings.deadline_s)
