"""The order of adapters' components where some clients can hold only the first ones."""

from collections.abc import Iterable
from dataclasses import replace

from fedrouter.config import ResolvedConfig
from fedrouter.server.engine import Engine
from fedrouter.strategies import ServerState
from fedrouter.strategies.aggregation import ordered


def with_best_components_first(
    config: ResolvedConfig,
    engine: Engine,
    online: Iterable[int],
    before: ServerState,
    after: ServerState,
) -> ServerState:
    """The state after a round, its new adapters `ordered` if a client has a lower rank.

    All of them are, also those that only clients of full rank trained: other clients are sent their
    first components too, to evaluate or compare them. Not with `aggregation.ranks =
    "zero_padding"`, which is the naive method, and "svd", which orders them itself; nor where
    something refers to the components of an earlier round (`FederationConfig.kept_components`).

    Args:
        config: the run's configuration.
        engine: knows the clients' ranks.
        online: the clients that are connected.
        before, after: the states before and after the aggregation.
    """
    if config.aggregation.ranks != "partition" or config.federation.kept_components:
        return after
    ranks = (engine.rank(client) for client in online)
    if all(rank is None or rank == config.adapter.rank for rank in ranks):
        return after
    adapters = {
        name: weights if weights is before.adapters.get(name) else ordered(weights)
        for name, weights in after.adapters.items()
    }
    return replace(after, adapters=adapters)
