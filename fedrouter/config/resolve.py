"""The configuration with everything filled in that is derived from the data and the mode."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from fedrouter.config.schema import Config
from fedrouter.config.sections.aggregation import AggregationConfig, RobustName
from fedrouter.config.sections.base import Count
from fedrouter.config.sections.data import DataConfig, ScenarioName
from fedrouter.config.sections.federation import EngineConfig
from fedrouter.config.sections.model import Layer, ModelConfig, Pooling
from fedrouter.config.sections.routing import (
    AUTO,
    ClusteringConfig,
    FallbackName,
    RouterConfig,
    SpaceName,
)

BUILTIN_BASE = "nano"
UNLABELLED_GLOBAL_TASKS = 4  # global tasks where neither the configuration nor the rows say
FUSE_AUTO = 8  # adapters trained together where the configuration leaves it open
EMBEDDING_LAYER = 0.77  # "auto": fraction of the depth (docs/routing.md has the measurements)


class ResolvedModelConfig(ModelConfig):
    """`[model]` with the layer and the pooling of embeddings."""

    embedding_layer: Layer
    embedding_pooling: Pooling


class ResolvedAggregationConfig(AggregationConfig):
    """`[aggregation]` with a rule."""

    robust: RobustName


class ResolvedDataConfig(DataConfig):
    """`[data]` with a scenario."""

    scenario: ScenarioName


class ResolvedClusteringConfig(ClusteringConfig):
    """`[clustering]` with a number of global tasks and a space.

    `n_local` is unset where every client counts the task names among its own rows.
    """

    n_global: Count | Literal["auto"]
    space: SpaceName


class ResolvedRouterConfig(RouterConfig):
    """`[router]` with a fallback."""

    fallback: FallbackName


class ResolvedEngineConfig(EngineConfig):
    """`[engine]` with a number of adapters trained in one pass."""

    fuse: Count


class ResolvedConfig(Config):
    """A configuration that leaves nothing open, as `resolve` returns and run folders store it."""

    model: ResolvedModelConfig
    data: ResolvedDataConfig
    aggregation: ResolvedAggregationConfig
    clustering: ResolvedClusteringConfig
    router: ResolvedRouterConfig
    engine: ResolvedEngineConfig


def resolve(config: Config, tasks: Collection[str | None]) -> ResolvedConfig:
    """The configuration with everything filled in that is derived from the data and the mode.

    The scenario is `dual` where rows name their task, else `all`; the number of global tasks is
    that of the distinct names, else 4; the number of local tasks is what the scenario gives every
    client, and stays open where that differs from client to client; space, fallback and aggregation
    are those of the mode, with differential privacy the standardized space and the plain mean.
    Paths of files and of the base model become absolute, so that a run can be resumed from any
    folder.

    Args:
        config: as it was given; a resolved one is returned with the same values.
        tasks: the tasks that the training rows name; None for a row that names none.
    """
    config = with_full_paths(config)
    names = set(tasks)
    named = bool(names) and None not in names
    scenario = config.data.scenario or ("dual" if named else "all")
    number = len(names) if named else 0
    private = config.privacy.epsilon is not None
    given = config.clustering
    if private:  # the space in which vectors have length 1, whose sums have a known sensitivity
        given = given.replace(space=given.space or "standardized")
    if config.mode == "paper":
        clustering = _paper_clustering(given, scenario, number)
    else:
        clustering = _auto_clustering(given)
    masked = config.privacy.secure_aggregation  # so that no update can be compared with others
    plain = masked or private or config.mode == "paper" or config.aggregation.ranks == "svd"
    robust = config.aggregation.robust or ("none" if plain else "trimmed_mean")
    fallback = config.router.fallback or ("nearest" if config.mode == "paper" else "base")
    fuse = FUSE_AUTO if config.engine.fuse == AUTO else config.engine.fuse
    return ResolvedConfig(
        **{
            **dict(config),
            "model": _model(config.model, config.mode),
            "data": ResolvedDataConfig(**{**dict(config.data), "scenario": scenario}),
            "aggregation": ResolvedAggregationConfig(
                **{**dict(config.aggregation), "robust": robust}
            ),
            "clustering": clustering,
            "router": ResolvedRouterConfig(**{**dict(config.router), "fallback": fallback}),
            "engine": ResolvedEngineConfig(**{**dict(config.engine), "fuse": fuse}),
        }
    )


def _model(given: ModelConfig, mode: str) -> ResolvedModelConfig:
    """`[model]` with the paper's embedding in mode `paper`, else with what measured best."""
    layer, pooling = given.embedding_layer, given.embedding_pooling
    unset = 1.0 if mode == "paper" else AUTO
    chosen = unset if layer is None else layer
    return ResolvedModelConfig(
        **{
            **dict(given),
            "embedding_layer": EMBEDDING_LAYER if chosen == AUTO else chosen,
            "embedding_pooling": pooling or ("mean" if mode == "paper" else "mean_without_first"),
        }
    )


def _paper_clustering(
    given: ClusteringConfig, scenario: str, number: int
) -> ResolvedClusteringConfig:
    """`[clustering]` in mode `paper`; `number` of named tasks, 0 where a row names none."""
    return ResolvedClusteringConfig(
        n_local=given.n_local or _tasks_per_client(scenario, number),
        n_global=given.n_global or number or UNLABELLED_GLOBAL_TASKS,
        space=given.space or "raw",
    )


def _auto_clustering(given: ClusteringConfig) -> ResolvedClusteringConfig:
    """`[clustering]` in mode `auto`: numbers of tasks are determined during training."""
    return ResolvedClusteringConfig(
        n_local=given.n_local or AUTO,
        n_global=given.n_global or AUTO,
        space=given.space or "whitened",
    )


def _tasks_per_client(scenario: str, number: int) -> int | None:
    """The number of tasks that every client has, of `number` tasks in all (0 where rows name none);
    None where the clients have to count."""
    return {"single": 1, "dual": min(2, number), "all": number}.get(scenario) if number else None


def with_full_paths(config: Config) -> Config:
    """The configuration with full paths of files and of the base model's folder."""
    data = config.data
    sources = tuple(
        source.replace(path=source.path and source.path.resolve()) for source in data.sources
    )
    return config.replace(
        model=config.model.replace(name=_absolute(config.model.name)),
        data=data.replace(
            train=data.train and data.train.resolve(),
            test=data.test and data.test.resolve(),
            sources=sources,
        ),
    )


def _absolute(name: str) -> str:
    """The name of a base model, its full path where it is a folder or a file."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name != BUILTIN_BASE and path.exists() else name
