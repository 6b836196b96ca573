"""A routed model that several threads use at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.adapters import random_weights
from support.clients import SPEC
from support.toys import toy_rows

from fedrouter import RoutedModel
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry

TASKS = 8
CALLS = 500
THREADS = 8


@pytest.fixture(scope="module")
def model(toy_run: Path) -> RoutedModel:
    """Eight tasks, each around one of eight prompts, whose adapters answer differently."""
    one = RoutedModel.load(toy_run)
    base, names = one.base, tuple(f"task-{t:02d}" for t in range(TASKS))
    prompts = [row.instruction for row in toy_rows(3)[:TASKS]]
    router = Router(TaskGeometry(names, base.embed(prompts), 1.0, 1.0, 1.0), base.fingerprint)
    adapters = {name: random_weights(base.model, SPEC, t) for t, name in enumerate(names)}
    many = MultiAdapterModel(base, SPEC, adapters)
    return RoutedModel(one.config, base, router, many, tasks=[], history=[], round=2)


@pytest.mark.slow
def test_threads_get_the_answers_of_one_caller_at_a_time(model: RoutedModel) -> None:
    rows = toy_rows(CALLS // 3 + 1)[:CALLS]

    def call(i: int) -> object:
        [answer] = model.generate([rows[i].instruction], max_new_tokens=4)
        [loss] = model.multi_adapter.losses([rows[i]], [((answer.task, 1.0),)])
        return answer, loss

    alone = [call(i) for i in range(CALLS)]
    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(call, range(CALLS))) == alone
    assert len({answer.text for answer, _ in alone}) > TASKS
