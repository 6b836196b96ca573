"""How a client answers prompts: each serving rule as the blend of adapters for each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.store import ClientFolder
from fedrouter.data.rows import Row
from fedrouter.errors import MessageError
from fedrouter.evaluation.multi_adapter import Responder
from fedrouter.evaluation.shared_model import Resident
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import (
    ByName,
    ClientTask,
    InstanceMix,
    LowestLoss,
    OneAdapter,
    Routed,
    Scope,
    Serving,
)
from fedrouter.routing.router import blends, route
from fedrouter.routing.types import Blend
from fedrouter.seeding import generator
from fedrouter.types import Weights

LOSS_ROWS = 64  # training rows on which adapters are compared by their loss


@dataclass(frozen=True)
class AtHand:
    """The adapters at a client's hand while it works on a task, and what it may choose them by.

    Attributes:
        resident: the base model.
        spec: the adapters' shape.
        task: the task, with the received adapters.
        folder: what the client kept.
        train: its training rows.
        seed: the run's seed.
    """

    resident: Resident
    spec: LoraSpec
    task: ClientTask
    folder: ClientFolder
    train: Sequence[Row]
    seed: int

    def assembled(self, adapter: str | None, keep: str | None = None) -> Weights:
        """The run's initial adapter, overlaid with a received one and with what the client kept,
        tensor by tensor."""
        received = {} if adapter is None else self.task.adapters[adapter]
        kept = self.folder.kept(keep, self.task.round)
        return {**self.resident.initial(self.spec, self.seed), **received, **kept}

    def lowest_loss(self, adapters: Sequence[str]) -> str | None:
        """The received adapter with the lowest loss on (at most 64 of) the training rows; None
        where there is none to choose from."""
        if len(adapters) < 2:
            return next(iter(adapters), None)
        rows = self.sample("lowest loss", LOSS_ROWS)
        losses = self.losses(rows, adapters, np.ones((len(rows), len(adapters)), bool))
        return adapters[int(losses.sum(axis=0).argmin())]

    def losses(
        self, rows: Sequence[Row], adapters: Sequence[str | None], wanted: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The loss of each row with each received adapter (None: with the base model alone), shape
        (rows, adapters); infinity where it is not `wanted`."""
        loaded = {name: self.assembled(name) for name in adapters if name is not None}
        blends: list[Blend] = [() if name is None else ((name, 1.0),) for name in adapters]
        losses = np.full(wanted.shape, np.inf)
        pairs = np.argwhere(wanted)
        with Responder(self.resident.base, self.spec, loaded) as responder:
            losses[wanted] = responder.losses(
                [rows[i] for i, _ in pairs], [blends[a] for _, a in pairs]
            )
        return losses

    def sample(self, purpose: str, number: int) -> Sequence[Row]:
        """Random training rows, the same in every round."""
        draws = generator(self.seed, purpose, self.task.client)
        return [self.train[i] for i in draws.permutation(len(self.train))[:number]]


@dataclass(frozen=True)
class Choice:
    """What answers each of some rows.

    Attributes:
        adapters: the adapters in use, by name.
        blends: for each row, which of them, with weights.
        routed: for each row, the task it was routed to; empty where nothing is routed.
    """

    adapters: Mapping[str, Weights]
    blends: Sequence[Blend]
    routed: Sequence[str] = ()


@singledispatch
def choose(rule: Serving, hand: AtHand, rows: Sequence[Row], scope: Scope) -> Choice:
    """What answers `rows` under a rule; `scope` "local" offers a router only the own tasks.

    Raises:
        MessageError: the rule cannot be followed.
    """
    raise MessageError(f"unknown serving rule {type(rule).__name__}")


@choose.register
def _one(rule: OneAdapter, hand: AtHand, rows: Sequence[Row], scope: Scope) -> Choice:
    adapters = {"own": hand.assembled(rule.adapter, rule.keep)}
    return Choice(adapters, [(("own", 1.0),)] * len(rows))


@choose.register
def _routed(rule: Routed, hand: AtHand, rows: Sequence[Row], scope: Scope) -> Choice:
    allowed = rule.own if scope == "local" else rule.places.tasks
    points = hand.resident.base.embed([row.instruction for row in rows])
    routes = route(rule.places, points, allowed)
    chosen = blends(rule.places, routes, rule.policy, allowed)
    adapters = {task: hand.assembled(task) for blend in chosen for task in dict(blend)}
    return Choice(adapters, chosen, routes.tasks)


@choose.register
def _by_name(rule: ByName, hand: AtHand, rows: Sequence[Row], scope: Scope) -> Choice:
    try:
        tasks = [rule.adapters[row.task or ""] for row in rows]
    except KeyError as error:
        raise MessageError(f"no adapter for the true task {error}; it was in no profile") from None
    adapters = {task: hand.assembled(task) for task in set(tasks)}
    return Choice(adapters, [((task, 1.0),) for task in tasks], tasks)


@choose.register
def _lowest(rule: LowestLoss, hand: AtHand, rows: Sequence[Row], scope: Scope) -> Choice:
    return _one(OneAdapter(hand.lowest_loss(rule.adapters)), hand, rows, scope)


@choose.register
def _mixed(rule: InstanceMix, hand: AtHand, rows: Sequence[Row], scope: Scope) -> Choice:
    if not hand.folder.kept(rule.keep, hand.task.round):
        return _one(OneAdapter(rule.adapter), hand, rows, scope)
    adapters = {
        "kept": hand.assembled(None, rule.keep),
        "received": hand.assembled(rule.adapter),
    }
    prompts = _directions(hand.resident.base, rows)
    examples = _directions(hand.resident.base, hand.sample("instance mix", rule.samples))
    weights = rule.scale * (prompts @ examples.T).mean(axis=1)
    blends = [(("kept", float(w)), ("received", float(1 - w))) for w in weights]
    return Choice(adapters, blends)


def _directions(base: BaseModel, rows: Sequence[Row]) -> NDArray[np.float64]:
    """Unit vectors of the last token's hidden state, shape (rows, d)."""
    points = base.embed([row.instruction for row in rows], pooling="last").astype(np.float64)
    unit: NDArray[np.float64] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit
