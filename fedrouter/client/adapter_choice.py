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
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import (
    ClientRequest,
    InstanceMixture,
    LowestLoss,
    RouteByTask,
    Scope,
    Serving,
    SingleAdapter,
    TrueTask,
)
from fedrouter.routing.router import mixtures, route
from fedrouter.routing.types import AdapterMixture
from fedrouter.seeding import generator
from fedrouter.types import AdapterWeights

LOSS_ROWS = 64  # training rows on which adapters are compared by their loss


@dataclass(frozen=True)
class AdapterContext:
    """The adapters at a client's hand while it works on a task, and what it may choose them by.

    Attributes:
        resident: the base model.
        spec: the adapters' shape.
        task: the task, with the received adapters.
        folder: what the client kept.
        train: its training rows.
        seed: the run's seed.
    """

    shared_model: SharedModel
    spec: LoraSpec
    task: ClientRequest
    folder: ClientFolder
    train: Sequence[Row]
    seed: int

    def assembled(self, adapter: str | None, keep: str | None = None) -> AdapterWeights:
        """The run's initial adapter, overlaid with a received one and with what the client kept,
        tensor by tensor."""
        received = {} if adapter is None else self.task.adapters[adapter]
        kept = self.folder.kept(keep, self.task.round)
        return {**self.shared_model.initial(self.spec, self.seed), **received, **kept}

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
        mixtures: list[AdapterMixture] = [
            () if name is None else ((name, 1.0),) for name in adapters
        ]
        losses = np.full(wanted.shape, np.inf)
        pairs = np.argwhere(wanted)
        with MultiAdapterModel(self.shared_model.base, self.spec, loaded) as multi_adapter:
            losses[wanted] = multi_adapter.losses(
                [rows[i] for i, _ in pairs], [mixtures[a] for _, a in pairs]
            )
        return losses

    def sample(self, purpose: str, number: int) -> Sequence[Row]:
        """Random training rows, the same in every round."""
        draws = generator(self.seed, purpose, self.task.client)
        return [self.train[i] for i in draws.permutation(len(self.train))[:number]]


@dataclass(frozen=True)
class RoutedRows:
    """What answers each of some rows.

    Attributes:
        adapters: the adapters in use, by name.
        blends: for each row, which of them, with weights.
        routed: for each row, the task it was routed to; empty where nothing is routed.
    """

    adapters: Mapping[str, AdapterWeights]
    mixtures: Sequence[AdapterMixture]
    routed: Sequence[str] = ()


@singledispatch
def choose(rule: Serving, context: AdapterContext, rows: Sequence[Row], scope: Scope) -> RoutedRows:
    """What answers `rows` under a rule; `scope` "local" offers a router only the own tasks.

    Raises:
        MessageError: the rule cannot be followed.
    """
    raise MessageError(f"unknown serving rule {type(rule).__name__}")


@choose.register
def _one(
    rule: SingleAdapter, context: AdapterContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    adapters = {"own": context.assembled(rule.adapter, rule.keep)}
    return RoutedRows(adapters, [(("own", 1.0),)] * len(rows))


@choose.register
def _routed(
    rule: RouteByTask, context: AdapterContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    allowed = rule.own if scope == "local" else rule.geometry.tasks
    points = context.shared_model.base.embed([row.instruction for row in rows])
    routes = route(rule.geometry, points, allowed)
    chosen = mixtures(rule.geometry, routes, rule.policy, allowed)
    adapters = {task: context.assembled(task) for mixture in chosen for task in dict(mixture)}
    return RoutedRows(adapters, chosen, routes.tasks)


@choose.register
def _by_name(
    rule: TrueTask, context: AdapterContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    try:
        tasks = [rule.adapters[row.task or ""] for row in rows]
    except KeyError as error:
        raise MessageError(f"no adapter for the true task {error}; it was in no profile") from None
    adapters = {task: context.assembled(task) for task in set(tasks)}
    return RoutedRows(adapters, [((task, 1.0),) for task in tasks], tasks)


@choose.register
def _lowest(
    rule: LowestLoss, context: AdapterContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    return _one(SingleAdapter(context.lowest_loss(rule.adapters)), context, rows, scope)


@choose.register
def _mixed(
    rule: InstanceMixture, context: AdapterContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    if not context.folder.kept(rule.keep, context.task.round):
        return _one(SingleAdapter(rule.adapter), context, rows, scope)
    adapters = {
        "kept": context.assembled(None, rule.keep),
        "received": context.assembled(rule.adapter),
    }
    prompts = _directions(context.shared_model.base, rows)
    examples = _directions(context.shared_model.base, context.sample("instance mix", rule.samples))
    weights = rule.scale * (prompts @ examples.T).mean(axis=1)
    mixtures = [(("kept", float(w)), ("received", float(1 - w))) for w in weights]
    return RoutedRows(adapters, mixtures)


def _directions(base: BaseModel, rows: Sequence[Row]) -> NDArray[np.float64]:
    """Unit vectors of the last token's hidden state, shape (rows, d)."""
    points = base.embed([row.instruction for row in rows], pooling="last").astype(np.float64)
    unit: NDArray[np.float64] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit
