"""Clients without a model, whose replies travel as bytes, and a server for them.

Each client has points in place of prompts, and answers every kind of request as a real one does:
its profiles are those of its points, its updates are constant. One of them may be hostile: what it
sends is changed on the way.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.profiling import kept_tasks
from fedrouter.config import ResolvedConfig
from fedrouter.errors import MessageError
from fedrouter.protocol.codec import pack_reply, unpack_reply
from fedrouter.protocol.messages import (
    FRACTIONS,
    ClientReply,
    ClientRequest,
    ComparedLosses,
    EvaluateOrder,
    EvaluationReport,
    Failure,
    LabelScores,
    Update,
)
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    ClusterPrompts,
    DescribeEmbeddings,
    DetectNewTasks,
    GroupByLabel,
    ProfileOrder,
    ReassignByLoss,
    asks_scatter,
    settles_local_tasks,
)
from fedrouter.protocol.serving_rules import RouteByTask, TrueTask
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.routing.clustering import cluster, group, squared_distances
from fedrouter.routing.types import TaskProfile
from fedrouter.routing.whitening import scatter
from fedrouter.server.engine import Engine, Traffic
from fedrouter.server.resource_usage import ResourceUsage
from fedrouter.server.server import Server
from fedrouter.types import select_matrices

DIMENSION = 4
A, B = "m.0.lora_A.weight", "m.0.lora_B.weight"
INITIAL = {A: np.ones((2, 3), np.float32), B: np.zeros((3, 2), np.float32)}
SHAPES = {name: array.shape for name, array in INITIAL.items()}
HOSTILE = 0

Wire = tuple[str, dict[str, Any]]  # header and arrays
Change = Callable[[ClientRequest, Wire], Wire]


class ScriptedClient:
    """A client with 24 points around two of four places."""

    def __init__(self, id: int, n_local: int | None) -> None:
        self.id = id
        self.n_local = n_local
        draws = np.random.default_rng(id)
        self.names = [str(id % 4), str((id + 1) % 4)]
        places = 9 * np.eye(DIMENSION)[[id % 4, (id + 1) % 4]].repeat(12, axis=0)
        self.points = (places + draws.normal(0, 1, (24, DIMENSION))).astype(np.float32)
        self.labels = np.zeros(24, np.int64)
        self.level = 1.0 + id  # of the numbers in its updates

    def answer(self, request: ClientRequest) -> ClientReply:
        return ClientReply(
            self.id,
            request.round,
            profile=None if request.profile is None else self.profile(request.profile),
            losses=tuple(
                ComparedLosses(one.local_task, 3, 2.0, dict.fromkeys(one.adapters, 1.0))
                for one in request.compare
            ),
            evaluation=None if request.evaluate is None else self.evaluation(request.evaluate),
            updates=tuple(
                Update(
                    slot,
                    next(iter(order.adapters), None),
                    {
                        name: np.full(shape, self.level, np.float32)
                        for name, shape in select_matrices(SHAPES, order.send).items()
                    },
                    samples=self.samples(order.local_task),
                    loss=1.0,
                    tokens=7,
                )
                for slot, order in enumerate(request.train)
            ),
        )

    def samples(self, local_task: int | None) -> int:
        return 24 if local_task is None else int((self.labels == local_task).sum())

    def profile(self, order: ProfileOrder) -> TaskProfile:
        points, tasks, names, squared = self.points, (), (), None
        if isinstance(order, ClusterPrompts | AssignToStarts) and order.standardization:
            points = order.standardization(points)
        if isinstance(order, DescribeEmbeddings):
            labels = np.zeros(len(points), np.int64)
        elif isinstance(order, GroupByLabel):
            labels, names = np.arange(24) // 12, tuple(self.names)
        elif isinstance(order, AssignToStarts):
            centroids, sizes = np.concatenate(order.starts), [len(one) for one in order.starts]
            nearest = [
                first + squared_distances(points, one).argmin(axis=1)
                for first, one in zip(np.cumsum([0, *sizes]), order.starts, strict=False)
            ]
            found, labels = np.unique(np.concatenate(nearest), return_inverse=True)
            points = np.tile(points, (len(sizes), 1))
            tasks = tuple(found.tolist())
            squared = np.square(points - centroids[found[labels]]).sum(axis=1, dtype=np.float64)
        elif isinstance(order, AssignToNearest | DetectNewTasks | ReassignByLoss):
            geometry = order.geometry
            points = np.asarray(geometry.standardized(points), np.float32)
            distances = squared_distances(points, geometry.centroids, geometry.space)
            own = list(range(len(geometry.tasks)))
            if isinstance(order, ReassignByLoss):
                own = [geometry.tasks.index(name) for name in order.adapters]
            if isinstance(order, AssignToNearest):
                counts = np.bincount(distances.argmin(axis=1), minlength=len(own))
                own = kept_tasks(counts, order.min_samples, self.n_local).tolist()
            distances[:, [t for t in range(len(geometry.tasks)) if t not in own]] = np.inf
            found, labels = np.unique(distances.argmin(axis=1), return_inverse=True)
            tasks, squared = tuple(found.tolist()), distances.min(axis=1)
        else:
            labels = cluster(points, self.n_local or 2, seed=0).labels
        clusters = group(points, labels, squared)
        if settles_local_tasks(order):
            self.labels = labels
        return TaskProfile(
            self.id,
            clusters.centroids,
            tuple(clusters.counts.tolist()),
            tuple(clusters.second_moments.tolist()),
            tuple(clusters.fourth_moments.tolist()),
            names,
            tasks,
            scatter(points, labels, np.eye(points.shape[1])) if asks_scatter(order) else None,
            self.points.var(axis=0) if isinstance(order, DescribeEmbeddings) else None,
        )

    def evaluation(self, order: EvaluateOrder) -> EvaluationReport:
        scores = LabelScores(2, {**dict.fromkeys(FRACTIONS, 0.5), "loss": 1.0})
        serving = order.serving
        tasks: Sequence[str] = ()
        if isinstance(serving, RouteByTask):
            tasks = serving.geometry.tasks
        if isinstance(serving, TrueTask):
            tasks = list(serving.adapters.values())
        return EvaluationReport(
            {scope: dict.fromkeys(self.names, scores) for scope in order.scopes},
            {task: {self.names[0]: 1} for task in tasks},
            tuple({self.names[0]: int(n)} for n in np.bincount(self.labels)) if tasks else (),
        )


class ScriptedEngine:
    """Sends the replies of scripted clients as bytes; `change` changes those of client 0."""

    def __init__(self, config: ResolvedConfig, change: Change) -> None:
        self.traffic = Traffic()
        n_local = config.clustering.n_local
        number = n_local if isinstance(n_local, int) else None
        self.clients = {id: ScriptedClient(id, number) for id in range(config.federation.clients)}
        self.change = change
        self.expected = ExpectedArrays(SHAPES, DIMENSION, n_local)

    def online(self) -> Sequence[int]:
        return sorted(self.clients)

    def rank(self, client: int) -> int | None:
        return None

    def run(self, requests: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        for request in requests:
            wire = pack_reply(self.clients[request.client].answer(request), "float32")
            if request.client == HOSTILE:
                wire = self.change(request, wire)
            try:
                yield unpack_reply(*wire, self.expected.largest_reply(request))
            except MessageError as error:
                yield Failure(request.client, request.round, str(error))


def server(config: ResolvedConfig, engine: Engine) -> Server:
    """A server for scripted clients."""
    empty = np.zeros((0, DIMENSION), np.float32)
    base = SimpleNamespace(fingerprint="base", name="base", embed=lambda texts, spec: empty)
    model: Any = SimpleNamespace(base=base, initial=lambda spec, seed: INITIAL)
    return Server(config, model, LoraSpec(2, 2, 0.0), engine, costs=ResourceUsage())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in JSON, the outermost first."""
    yield path
    items: Mapping[Any, Any] = {}
    if isinstance(value, dict):
        items = value
    elif isinstance(value, list):
        items = dict(enumerate(value))
    for key, inner in items.items():
        yield from leaves(inner, (*path, key))


def replaced(text: str, path: Sequence[Any], new: str) -> str:
    """JSON with the value at a path replaced by a text, which need not be JSON."""
    mark = "__replaced__"
    document = json.loads(text)
    if not path:
        return new
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = mark
    return json.dumps(document).replace(f'"{mark}"', new)
