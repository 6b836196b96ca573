"""A two-dimensional map of the embeddings of a run's training prompts, and of the centroids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrouter.client.store import ClientStore
from fedrouter.config import Config, load_resolved
from fedrouter.data.client_data import ClientData, deal, run_splits
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.routing.router import Router
from fedrouter.seeding import generator
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import strategy_class

POINTS = 1500  # the largest number of prompts on a map


@dataclass(frozen=True)
class EmbeddingMap:
    """Prompts and centroids along the first two principal components of the prompts.

    Attributes:
        points: shape (n, 2).
        true_tasks: the true task of each prompt; empty if rows do not name one.
        global_tasks: the global task of each prompt; empty if the method has no router.
        centroids: global task -> the point of its centroid.
    """

    points: NDArray[np.float64]
    true_tasks: Sequence[str]
    global_tasks: Sequence[str]
    centroids: Mapping[str, tuple[float, float]]


def embedding_map(run: RunFolder, shared_model: SharedModel) -> EmbeddingMap:
    """The map of a finished run, from the training data that its configuration names.

    Raises:
        FedRouterError: the data are not on this machine, or differ from those of the run.
    """
    from sklearn.decomposition import PCA

    config = load_resolved(run.path / "config.toml")
    pooled = strategy_class(config.strategy).pooled
    splits = run_splits(config, run.read_summary().get("data"))
    dealt = deal(config, splits, pooled)
    router = Router.load(run.path) if (run.path / "router.json").exists() else None
    assigned = [] if router is None else _global_tasks(run, dealt)
    rows = [row for holding in dealt for row in holding.train]
    chosen = generator(config.seed, "map").permutation(len(rows))[:POINTS]
    spec = EmbeddingSpec.from_config(config.model)
    embeddings = shared_model.base.embed([rows[i].instruction for i in chosen], spec)
    if router is not None:
        embeddings = router.geometry.standardized(embeddings)
    pca = PCA(2, svd_solver="full").fit(embeddings.astype(np.float64))
    true = [rows[i].task for i in chosen]
    return EmbeddingMap(
        points=pca.transform(embeddings.astype(np.float64)),
        true_tasks=[] if None in true else [str(name) for name in true],
        global_tasks=[assigned[i] for i in chosen] if assigned else [],
        centroids={} if router is None else _centroid_points(router, pca),
    )


def _centroid_points(router: Router, pca: Any) -> dict[str, tuple[float, float]]:
    points = pca.transform(router.geometry.centroids.astype(np.float64)).tolist()
    return {task: (x, y) for task, (x, y) in zip(router.geometry.tasks, points, strict=True)}


def load_shared_model(config: Config) -> SharedModel:
    """The base model of a run, on the device that the configuration names."""
    return SharedModel.load(config.model, config.engine.device)


def _global_tasks(run: RunFolder, dealt: Sequence[ClientData]) -> list[str]:
    """The global task of every training row, client by client."""
    checkpoint, _ = run.latest_checkpoint()
    assert checkpoint is not None, "a finished run has a checkpoint"
    assignment = checkpoint.meta["state"]["assignment"]
    return [
        assignment[str(client)][label]
        for client, holding in enumerate(dealt)
        for label in ClientStore(run.path / "clients", client, holding.train).labels()
    ]
