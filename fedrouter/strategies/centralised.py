"""Centralised training: all rows in one place, as no federation has them. A reference."""

from collections.abc import Sequence
from dataclasses import replace

from fedrouter.protocol.messages import ClientRequest, TrainOrder
from fedrouter.strategies.base import ServerState
from fedrouter.strategies.fedavg import FedAvg


class Centralised(FedAvg):
    """FedAvg of one client, 0, which holds the rows of all. All clients answer with its adapter."""

    reference = True
    pooled = True

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """All samples on client 0; nothing elsewhere."""
        return super().orders(state, round, client) if client == 0 else ()

    def plan(self, state: ServerState, round: int, clients: Sequence[int]) -> list[ClientRequest]:
        """Client 0 trains as many batches as `clients` together would, whether it is among them or
        not; the others have nothing to train."""
        pool, *others = super().plan(state, round, sorted({0, *clients}))
        orders = tuple(replace(order, steps=order.steps * len(clients)) for order in pool.train)
        return [replace(pool, train=orders), *others]
