"""A state with three tasks on a line, by hand."""

import numpy as np

from fedrouter.protocol.messages import ClientReply, ComparedLosses
from fedrouter.routing.router import Router
from fedrouter.routing.types import TaskGeometry, TaskProfile
from fedrouter.strategies import TaskState, make_strategy
from fedrouter.strategies.fedrouter.task_discovery import TaskDiscovery
from fedrouter.types import AdapterWeights
from support.configs import resolved

NAMES = ("task-00", "task-01", "task-02")


def adapter(number: float) -> AdapterWeights:
    return {"a.lora_A.weight": np.full((1, 2), number, np.float32)}


def state(round: int = 1) -> TaskState:
    """Three tasks on a line; client 0 holds the first two, client 1 the last two."""
    centroids = np.array([[0, 0], [1, 0], [9, 0]], np.float32)
    return TaskState(
        round=round,
        base="base",
        adapters={name: adapter(t) for t, name in enumerate(NAMES)},
        router=Router(TaskGeometry(NAMES, centroids, 1.0, 1.0, 1.0), "base"),
        assignment={0: NAMES[:2], 1: NAMES[1:]},
        counts={0: (30, 5), 1: (5, 20)},
        pending=("compare",),
    )


def method(*sets: str) -> TaskDiscovery:
    base = ["data.scenario=all", "federation.rounds=9", "training.steps=5"]
    found = ["clustering.n_local=auto", "clustering.n_global=auto", "clustering.space=raw"]
    strategy = make_strategy(resolved(*base, *found, *sets))
    assert isinstance(strategy, TaskDiscovery)
    return strategy


def reply(client: int, *losses: ComparedLosses) -> ClientReply:
    return ClientReply(client, 1, losses=losses)


def arrived(tasks: tuple[int, ...]) -> TaskProfile:
    """Client 2, whose local tasks lie at 2, 40 and 80."""
    centroids = np.array([[2, 0], [40, 0], [80, 0]], np.float32)
    return TaskProfile(2, centroids, (9, 8, 8), (1.0,) * 3, (1.0,) * 3, tasks=tasks)
