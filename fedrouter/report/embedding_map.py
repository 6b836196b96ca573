"""The map of a run's training prompts: their embeddings in two dimensions, and the centroids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrouter.client.store import ClientStore
from fedrouter.config import Config, load_config
from fedrouter.data.client_data import ClientData, deal
from fedrouter.data.loading import load_splits
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.routing.router import Router
from fedrouter.seeding import generator
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import STRATEGIES

POINTS = 1500  # prompts on a map, at most


@dataclass(frozen=True)
class EmbeddingMap:
    """Prompts and centroids along the two directions in which the prompts differ most.

    Attributes:
        points: shape (n, 2).
        true: the true task of each prompt; empty where rows name none.
        found: the global task of each prompt; empty where the run found none.
        centroids: global task -> its place.
    """

    points: NDArray[np.float64]
    true: Sequence[str]
    found: Sequence[str]
    centroids: Mapping[str, tuple[float, float]]


def embedding_map(run: RunFolder, shared_model: SharedModel) -> EmbeddingMap:
    """The map of a finished run, from the data that its configuration names on this machine.

    Raises:
        FedRouterError: the data are not on this machine, or not those of the run.
    """
    from sklearn.decomposition import PCA

    config = load_config(run.path / "config.toml")
    pooled = STRATEGIES[config.strategy].pooled
    dealt = deal(config, load_splits(config.data, config.seed), pooled)
    router = Router.load(run.path) if (run.path / "router.json").exists() else None
    found = [] if router is None else _found(run, dealt)
    rows = [row for holding in dealt for row in holding.train]
    chosen = generator(config.seed, "map").permutation(len(rows))[:POINTS]
    embeddings = shared_model.base.embed([rows[i].instruction for i in chosen])
    pca = PCA(2, svd_solver="full").fit(embeddings.astype(np.float64))
    geometry = (
        []
        if router is None
        else pca.transform(router.geometry.centroids.astype(np.float64)).tolist()
    )
    true = [rows[i].task for i in chosen]
    return EmbeddingMap(
        points=pca.transform(embeddings.astype(np.float64)),
        true=[] if None in true else [str(name) for name in true],
        found=[found[i] for i in chosen] if found else [],
        centroids={
            task: (x, y)
            for task, (x, y) in zip(router.geometry.tasks if router else (), geometry, strict=True)
        },
    )


def resident_of(config: Config) -> SharedModel:
    """The base model of a run, on the CPU's or GPU's choice of the configuration."""
    return SharedModel.load(config.model, config.engine.device)


def _found(run: RunFolder, dealt: Sequence[ClientData]) -> list[str]:
    """The global task of every client's training rows, in order."""
    checkpoint, _ = run.latest_checkpoint()
    assert checkpoint is not None, "a finished run has a checkpoint"
    assignment = checkpoint.meta["state"]["assignment"]
    return [
        assignment[str(client)][label]
        for client, holding in enumerate(dealt)
        for label in ClientStore(run.path / "clients", client, holding.train).labels()
    ]
