"""How a client answers prompts: each serving rule as the mixture of adapters for each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from fedrouter.client.context import RequestContext
from fedrouter.data.rows import Row
from fedrouter.errors import MessageError
from fedrouter.model.base_model import BaseModel
from fedrouter.model.embedding import LAST_TOKEN
from fedrouter.protocol.messages import Scope
from fedrouter.protocol.serving_rules import (
    InstanceMixture,
    LowestLoss,
    RouteByTask,
    Serving,
    SingleAdapter,
    TrueTask,
)
from fedrouter.routing.router import mixtures, route
from fedrouter.routing.types import AdapterMixture
from fedrouter.types import AdapterWeights


@dataclass(frozen=True)
class RoutedRows:
    """Which adapters answer each of n rows.

    Attributes:
        adapters: the adapters in use, by name.
        mixtures: for each row, the names of its adapters and their weights.
        tasks: for each row, the task it was routed to; empty if nothing is routed.
        confidence: for each row, the probability of its task; empty if no distances were taken.
    """

    adapters: Mapping[str, AdapterWeights]
    mixtures: Sequence[AdapterMixture]
    tasks: Sequence[str] = ()
    confidence: Sequence[float] = ()


@singledispatch
def choose(rule: Serving, context: RequestContext, rows: Sequence[Row], scope: Scope) -> RoutedRows:
    """Choose the adapters that answer `rows` under a serving rule.

    Args:
        rule: how prompts are answered.
        context: the request, with the adapters that were received and kept.
        rows: what is to be answered.
        scope: "local" offers a router only the client's own tasks.

    Raises:
        MessageError: the rule cannot be followed.
    """
    raise MessageError(f"unknown serving rule {type(rule).__name__}")


@choose.register
def _single(
    rule: SingleAdapter, context: RequestContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    adapters = {"own": context.assemble(rule.adapter, rule.keep)}
    return RoutedRows(adapters, [(("own", 1.0),)] * len(rows))


@choose.register
def _by_task(
    rule: RouteByTask, context: RequestContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    allowed = rule.own if scope == "local" else rule.geometry.tasks
    routes = route(rule.geometry, context.embed(rows), allowed)
    chosen = mixtures(rule.geometry, routes, rule.policy, allowed)
    names = dict.fromkeys(name for mixture in chosen for name, _ in mixture)
    adapters = {name: context.assemble(name) for name in names}
    return RoutedRows(adapters, chosen, routes.tasks, routes.confidence.tolist())


@choose.register
def _true_task(
    rule: TrueTask, context: RequestContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    try:
        tasks = [rule.adapters[row.task or ""] for row in rows]
    except KeyError:  # whose text is a label of the client's data
        raise MessageError("no adapter for the true task of a row; it was in no profile") from None
    adapters = {task: context.assemble(task) for task in dict.fromkeys(tasks)}
    return RoutedRows(adapters, [((task, 1.0),) for task in tasks], tasks)


@choose.register
def _lowest_loss(
    rule: LowestLoss, context: RequestContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    return _single(SingleAdapter(context.lowest_loss(rule.adapters)), context, rows, scope)


@choose.register
def _instance_mixture(
    rule: InstanceMixture, context: RequestContext, rows: Sequence[Row], scope: Scope
) -> RoutedRows:
    if not context.store.kept(rule.keep, context.request.round):
        return _single(SingleAdapter(rule.adapter), context, rows, scope)
    adapters = {
        "kept": context.assemble(None, rule.keep),
        "received": context.assemble(rule.adapter),
    }
    prompts = _directions(context.base, rows)
    examples = _directions(context.base, context.sample("instance mix", rule.samples))
    weights = rule.scale * (prompts @ examples.T).mean(axis=1)
    return RoutedRows(adapters, [(("kept", float(w)), ("received", float(1 - w))) for w in weights])


def _directions(base: BaseModel, rows: Sequence[Row]) -> NDArray[np.float64]:
    """Unit vectors of the last token's hidden state, shape (rows, d)."""
    points = base.embed([row.instruction for row in rows], LAST_TOKEN).astype(np.float64)
    unit: NDArray[np.float64] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit
