"""The server's work for many clients and tasks, without a model.

Rounds with one local task per client and synthetic replies: seconds and memory with 100 and with
10,000 clients, each in its own process. Then clustering of centroids and routing of embeddings,
against numpy's matrix product of the same sizes.

``python -m bench.server [--full]``
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from bench.output import publish
from bench.pairs import seconds_of
from fedrouter.config import ResolvedConfig, load_config
from fedrouter.config.resolve import resolve
from fedrouter.progress import Progress
from fedrouter.protocol.messages import ClientReply, ClientRequest, Update
from fedrouter.protocol.profile_orders import ProfileOrder
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.routing.clustering import cluster, squared_distances
from fedrouter.routing.router import Router
from fedrouter.routing.types import Scatter, TaskGeometry, TaskProfile
from fedrouter.server.engine import Traffic
from fedrouter.server.rounds import exchanges, rounds
from fedrouter.strategies import make_strategy
from fedrouter.types import AdapterWeights

DIMENSION = 256
TASKS = 64
ROUNDS = 3
MODULES = 8  # of rank 8 and 256 features: 128 KiB an adapter in float32


class MadeUp:
    """An engine whose clients reply at once, with the received adapter plus a small change."""

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self.traffic = Traffic()

    def online(self) -> Sequence[int]:
        """All clients."""
        return range(self.clients)

    def rank(self, client: int) -> int | None:  # noqa: ARG002
        """The run's."""
        return None

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply]:
        """One reply for each request, created when it is consumed."""
        for task in tasks:
            draws = np.random.default_rng((task.round, task.client))
            profile = task.profile and made_up_profile(task.client, task.profile)
            updates = tuple(
                Update(
                    slot,
                    order.adapters[0],
                    moved(task.adapters[order.adapters[0]], draws),
                    10,
                    1.0,
                    100,
                )
                for slot, order in enumerate(task.train)
            )
            yield ClientReply(task.client, task.round, profile, None, updates)


def moved(weights: AdapterWeights, draws: np.random.Generator) -> AdapterWeights:
    """The weights plus a small change."""
    step = np.float32(draws.normal(0, 0.01))
    return {name: array + step for name, array in weights.items()}


def made_up_profile(client: int, order: ProfileOrder) -> TaskProfile:
    """A profile of one local task near one of the true centroids, with unit variance."""
    centres = np.random.default_rng(0).normal(size=(TASKS, DIMENSION))
    noise = np.random.default_rng((1, client)).normal(0, 0.1, DIMENSION)
    centroid = (centres[client % TASKS] + noise).astype(np.float32)
    tasks: tuple[int, ...] = ()
    if order.geometry is not None:
        geometry = order.geometry
        tasks = (
            int(squared_distances(centroid[None], geometry.centroids, geometry.space).argmin()),
        )
    scatter = Scatter(np.eye(DIMENSION, dtype=np.float32)[np.triu_indices(DIMENSION)], 1.0)
    return TaskProfile(client, centroid[None], (10,), (1.0,), (1.5,), (), tasks, scatter)


def settings(clients: int) -> ResolvedConfig:
    """One local task per client and 64 global tasks."""
    sets = [
        f"federation.clients={clients}",
        f"federation.rounds={ROUNDS}",
        "clustering.n_local=1",
        "clustering.space=whitened",
        f"clustering.n_global={TASKS}",
        "evaluation.enabled=false",
    ]
    return resolve(load_config(None, sets), tasks=())


def adapter() -> AdapterWeights:
    """The initial adapter."""
    shapes = {"A": (8, DIMENSION), "B": (DIMENSION, 8)}
    return {
        f"base_model.model.layers.{i}.q_proj.lora_{part}.weight": np.zeros(shape, np.float32)
        for i in range(MODULES)
        for part, shape in shapes.items()
    }


def run_rounds(clients: int) -> dict[str, float]:
    """Run the rounds with `clients` clients in this process."""
    config, engine, initial = settings(clients), MadeUp(clients), adapter()
    strategy = make_strategy(config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    expected = ExpectedArrays({name: array.shape for name, array in initial.items()}, DIMENSION)
    began = time.perf_counter()

    def profiles(tasks: Sequence[ClientRequest]) -> Iterator[TaskProfile]:
        return (reply.profile for reply in engine.run(tasks) if reply.profile is not None)

    state = strategy.init(profiles(strategy.profile(engine.online())), initial, "base")
    state, _ = exchanges(strategy, engine, state, expected, Progress())
    profiled = time.perf_counter()
    for done in rounds(strategy, engine, state, config, expected):
        state = done.state
    ended = time.perf_counter()
    return {
        "profile seconds": profiled - began,
        "seconds a round": (ended - profiled) / ROUNDS,
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "MiB before": before / 1024,
    }


def many(points: int) -> list[dict[str, object]]:
    """Clustering of centroids and routing of embeddings, against the matrix product."""
    draws = np.random.default_rng(0)
    centres = draws.normal(size=(TASKS, DIMENSION)).astype(np.float32)
    cloud = draws.normal(0, 0.5, (points, DIMENSION)).astype(np.float32)
    cloud += centres[np.arange(points) % TASKS]
    router = Router(
        TaskGeometry(tuple(f"t{i}" for i in range(TASKS)), centres, 1.0, 1.0, 1.0), "base"
    )
    floor = seconds_of(lambda: cloud @ centres.T)
    rows = []
    for what, run in (
        ("clustering", lambda: cluster(cloud, TASKS, seed=0)),
        ("routing", lambda: router.route(cloud)),
    ):
        seconds = seconds_of(run)
        row = {"what": what, "points": points, "seconds": seconds, "matrix product": floor}
        rows.append(row | {"products": seconds / floor})
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="10,000 clients and 1,000,000 points")
    parser.add_argument("--clients", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.clients:
        print(json.dumps(run_rounds(asked.clients)))
        return
    table = []
    for clients in (100, 10_000 if asked.full else 2_000):
        command = [sys.executable, "-m", "bench.server", "--clients", str(clients)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        table.append({"clients": clients, **json.loads(done.stdout)})
    for row in table:
        row["memory, of 100 clients"] = row["MiB"] / table[0]["MiB"]
    size = sum(array.nbytes for array in adapter().values()) / 1024
    notes = [f"{TASKS} tasks, adapters of {size:.0f} KiB, one local task a client; MiB: peak."]
    publish("server", "The server's rounds", table, notes)
    points = 1_000_000 if asked.full else 100_000
    notes = [f"{DIMENSION} dimensions, {TASKS} tasks; the matrix product is in float32."]
    publish("server_points", "Clustering and routing", many(points), notes)


if __name__ == "__main__":
    main()
