"""A run with eight tasks, served on the loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.adapters import random_weights
from support.clients import SPEC
from support.servers import served
from support.toys import toy_rows

from fedrouter import RoutedModel
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry
from fedrouter.serving.app import make_app
from fedrouter.serving.engine import Engine, Limits
from fedrouter.serving.local import LocalBackend

TASKS = 8
PROMPTS = [row.instruction for row in toy_rows(3)[:TASKS]]


@pytest.fixture(scope="session")
def routed(toy_run: Path) -> RoutedModel:
    """Eight tasks, each around one of eight prompts, whose adapters answer differently."""
    one = RoutedModel.load(toy_run)
    base, names = one.base, tuple(f"task-{t:02d}" for t in range(TASKS))
    geometry = TaskGeometry(names, base.embed(PROMPTS), 1.0, 1.0, 1.0)
    adapters = {name: random_weights(base.model, SPEC, t) for t, name in enumerate(names)}
    many = MultiAdapterModel(base, SPEC, adapters)
    router = Router(geometry, base.fingerprint)
    return RoutedModel(one.config, base, router, many, tasks=[], history=[], round=2)


@pytest.fixture(scope="module")
def backend(routed: RoutedModel) -> LocalBackend:
    engine = Engine(routed, Limits(batch=4, queue=64))
    return LocalBackend(engine, Path("runs/toys"), max_tokens=16)


@pytest.fixture(scope="module")
def address(backend: LocalBackend) -> Iterator[str]:
    with served(make_app(backend)) as url:
        yield url
