"""The configuration with everything filled in that is read off the data and the machine."""

from collections.abc import Collection
from pathlib import Path

from fedrouter.config.schema import AUTO, Config

BUILTIN_BASE = "nano"
UNLABELLED_GLOBAL_TASKS = 4  # global tasks where neither the configuration nor the rows say
FUSE_AUTO = 8  # adapters trained together where the configuration leaves it open


def resolve(config: Config, tasks: Collection[str | None]) -> Config:
    """The configuration with everything filled in that is read off the data.

    The scenario is `dual` where rows name their task, else `all`; the number of global tasks is
    that of the distinct names, else 4; the number of local tasks is what the scenario gives every
    client, and stays open where that differs from client to client; space and fallback are those
    of the mode.
    Paths of files and of the base model become absolute, so that a run can be resumed from any
    folder.

    Args:
        config: as it was given.
        tasks: the tasks that the training rows name; None for a row that names none.
    """
    names = set(tasks)
    named = bool(names) and None not in names
    scenario = config.data.scenario or ("dual" if named else "all")
    config = with_full_paths(config)
    data, clustering, engine = config.data, config.clustering, config.engine
    paper = config.mode == "paper"
    return config.model_copy(
        update={
            "data": data.model_copy(update={"scenario": scenario}),
            "clustering": clustering.model_copy(
                update={
                    "n_local": clustering.n_local
                    or (_tasks_per_client(scenario, names) if paper else AUTO),
                    "n_global": clustering.n_global
                    or ((len(names) if named else UNLABELLED_GLOBAL_TASKS) if paper else AUTO),
                    "space": clustering.space or ("raw" if paper else "whitened"),
                }
            ),
            "router": config.router.model_copy(
                update={"fallback": config.router.fallback or ("nearest" if paper else "base")}
            ),
            "engine": engine.model_copy(
                update={"fuse": FUSE_AUTO if engine.fuse == "auto" else engine.fuse}
            ),
        }
    )


def with_full_paths(config: Config) -> Config:
    """The configuration with full paths of files and of the base model's folder."""
    model, data = config.model, config.data
    return config.model_copy(
        update={
            "model": model.model_copy(update={"name": _absolute(model.name)}),
            "data": data.model_copy(
                update={
                    "train": data.train and data.train.resolve(),
                    "test": data.test and data.test.resolve(),
                    "sources": tuple(
                        source.model_copy(update={"path": source.path and source.path.resolve()})
                        for source in data.sources
                    ),
                }
            ),
        }
    )


def _tasks_per_client(scenario: str, names: set[str | None]) -> int | None:
    """The number of tasks that every client holds; None where the clients have to count."""
    if None in names or not names:
        return None
    return {"single": 1, "dual": min(2, len(names)), "all": len(names)}.get(scenario)


def _absolute(name: str) -> str:
    """The name of a base model, its folder's full path where it is one."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name != BUILTIN_BASE and folder.is_dir() else name
