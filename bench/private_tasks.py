"""How well tasks are found, and prompts routed, under differential privacy, without training.

Clients of two tasks each, with `rows` rows, drawn again from the same rows where there are more
clients than rows suffice for; true numbers of tasks. The server's part is `PrivateFedRouter`; its
center is that of public prompts (`server.privacy.public_profile`), which are of the built-in tasks.

``python -m bench.private_tasks [--rows 20] [--seeds 3] [--train FILE.jsonl]``
"""

import argparse
import json
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from bench.output import publish
from fedrouter.config import load_config
from fedrouter.config.resolve import resolve
from fedrouter.data.builtin import builtin_rows
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.protocol.messages import ClientReply
from fedrouter.protocol.profile_orders import AssignToStarts
from fedrouter.routing.clustering import group, squared_distances
from fedrouter.routing.types import TaskProfile
from fedrouter.seeding import generator
from fedrouter.server.privacy import public_profile
from fedrouter.strategies import make_strategy
from fedrouter.strategies.fedrouter.private import PrivateFedRouter
from fedrouter.types import FloatArray

PER_TASK = 160  # rows of each task
NO_NOISE = 1e7  # an epsilon whose noise is negligible
LONGEST = 600  # characters of a prompt


def dealt(labels: NDArray[np.str_], clients: int, rows: int, seed: int) -> list[NDArray[np.int64]]:
    """The rows of each client: half of each of two tasks."""
    draws, found = generator(seed, "dealt"), []
    names = np.unique(labels)
    for client in range(clients):
        first = 2 * client + client // (len(names) // 2)
        pair = [names[(first + i) % len(names)] for i in (0, 1)]
        own = [draws.choice(np.flatnonzero(labels == name), rows // 2, False) for name in pair]
        found.append(np.concatenate(own))
    return found


def answer(client: int, points: FloatArray, starts: FloatArray) -> ClientReply:
    """What a client answers to `AssignToStarts`."""
    nearest = squared_distances(points, starts).argmin(axis=1)
    tasks, labels = np.unique(nearest, return_inverse=True)
    one = group(points, labels)
    moments = tuple(one.second_moments.tolist()), tuple(one.fourth_moments.tolist())
    counts = tuple(one.counts.tolist())
    profile = TaskProfile(client, one.centroids, counts, *moments, tasks=tuple(tasks.tolist()))
    return ClientReply(client, 0, profile)


def agreement(
    points: FloatArray,
    labels: NDArray[np.str_],
    public: TaskProfile,
    *,
    clients: int,
    rows: int,
    unit: str,
    epsilon: float,
    seed: int,
) -> float:
    """The adjusted Rand index of routed and true tasks of all rows."""
    sets = [
        f"seed={seed}",
        f"federation.clients={clients}",
        "clustering.n_local=2",
        f"clustering.n_global={len(np.unique(labels))}",
        f"privacy.epsilon={epsilon}",
        f"privacy.delta={0.1 / clients}",
        f"privacy.unit={unit}",
        "privacy.seeded_noise=true",
    ]
    method = make_strategy(resolve(load_config(None, sets), ()))
    assert isinstance(method, PrivateFedRouter)
    own = dealt(labels, clients, rows, seed)
    state = method.init([public], {}, "base")
    while len(state.pending) > 1:  # the last exchange only tells clients their tasks
        standard = state.geometry.standardization
        assert standard is not None
        vectors = standard(points)
        order = method.auxiliary_requests(state, [0])[0].profile
        assert isinstance(order, AssignToStarts)
        replies = [answer(c, vectors[which], order.starts[0]) for c, which in enumerate(own)]
        state = method.apply_auxiliary(state, replies)
    standard = state.geometry.standardization
    assert standard is not None
    routed = squared_distances(standard(points), state.geometry.centroids).argmin(axis=1)
    return float(adjusted_rand_score(labels, routed))


def prompts(path: Path | None) -> tuple[list[str], NDArray[np.str_]]:
    """Prompts and their tasks, from a file of JSON lines or of the built-in tasks."""
    if path is None:
        rows, _ = builtin_rows(PER_TASK, 1, 0)
        return [row.instruction for row in rows], np.array([str(row.task) for row in rows])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    names = dict.fromkeys(record["task"] for record in records)
    some = [[r for r in records if r["task"] == name][:PER_TASK] for name in names]
    chosen = [record for part in some for record in part]
    texts = [record["instruction"][:LONGEST] for record in chosen]
    return texts, np.array([record["task"] for record in chosen])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20, help="rows of a client")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=Path)
    asked = parser.parse_args()
    config = resolve(load_config(None, []), ())
    base = SharedModel.load(config.model).base
    texts, labels = prompts(asked.train)
    points = base.embed(texts, EmbeddingSpec.from_config(config.model))
    public = public_profile(base, config.model)
    table = []
    for unit in ("client", "sample"):
        for clients in (8, 50, 200):
            row: dict[str, object] = {"unit": unit, "clients": clients}
            for name, epsilon in (("no noise", NO_NOISE), ("epsilon 8", 8.0), ("2", 2.0)):
                found = [
                    agreement(
                        points,
                        labels,
                        public,
                        clients=clients,
                        rows=asked.rows,
                        unit=unit,
                        epsilon=epsilon,
                        seed=seed,
                    )
                    for seed in range(asked.seeds)
                ]
                row[name] = mean(found)
            table.append(row)
    publish("private_tasks", "Tasks under differential privacy: ARI", table, ["nano"])


if __name__ == "__main__":
    main()
