"""Centralized training, as in FedIT (Zhang et al., "Towards Building the Federated GPT: Federated
Instruction Tuning", 2024): the reference that has the rows of all clients in one place."""

from collections.abc import Sequence
from dataclasses import replace

from fedrouter.config import register_strategy
from fedrouter.protocol.messages import ClientRequest, TrainOrder
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.state import ServerState


@register_strategy("centralized")
class Centralized(FedAvg):
    """Centralized training, the reference without a federation (as in FedIT: Zhang et al., 2024):
    client 0 trains one adapter on the rows of all clients, and all clients answer with it."""

    reference = True
    from_sums = False
    pooled = True

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """One adapter on all samples for client 0; no training for the others."""
        return super().orders(state, round, client) if client == 0 else ()

    def plan(self, state: ServerState, round: int, clients: Sequence[int]) -> list[ClientRequest]:
        """Client 0 trains the number of batches that `clients` would train together, whether it is
        among them or not; the other clients train no adapter."""
        pool, *others = super().plan(state, round, sorted({0, *clients}))
        orders = tuple(replace(order, steps=order.steps * len(clients)) for order in pool.train)
        return [replace(pool, train=orders), *others]
