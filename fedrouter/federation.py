"""From a configuration and data to a federation: who holds which rows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fedrouter.client import Holding
from fedrouter.config import AUTO, Config
from fedrouter.datasets import Splits
from fedrouter.model import BUILTIN_BASE
from fedrouter.partition import partition
from fedrouter.rows import Row
from fedrouter.seeding import derive_seed, generator
from fedrouter.training import FUSE_AUTO

UNLABELLED_GLOBAL_TASKS = 4  # global tasks where neither the configuration nor the rows say


def resolve(config: Config, train: Sequence[Row]) -> Config:
    """The configuration with everything filled in that is read off the data.

    The scenario is `dual` where rows name their task, else `all`; the number of global tasks is
    that of the distinct names, else 4; the number of local tasks is what the scenario gives every
    client, and stays open where that differs from client to client; space and fallback are those
    of the mode.
    Paths of files and of the base model become absolute, so that a run can be resumed from any
    folder.
    """
    names = {row.task for row in train}
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


def deal(config: Config, splits: Splits, pooled: bool = False) -> list[Holding]:
    """What each client holds, by a resolved configuration; of the test rows, those that
    `evaluation.samples` leaves.

    Args:
        config: the resolved configuration.
        splits: all rows.
        pooled: client 0 gets the training rows of all clients (`Strategy.pooled`).

    Raises:
        DataError: the rows do not suffice for the scenario or the number of clients.
    """
    data, number = config.data, config.federation.clients
    assert data.scenario is not None, "resolve the configuration first"
    seed = derive_seed(config.seed, "partition")
    test = sample_test(splits.test, config.evaluation.samples, config.seed)
    dealt = []
    for id, share in enumerate(partition(splits.train, data.scenario, number, seed, data.alpha)):
        train = [splits.train[i] for i in share]
        own = _own_test(test, train, data.scenario, id, number)
        dealt.append(Holding(splits.train if pooled and id == 0 else train, own, test))
    return dealt


def _own_test(
    test: Sequence[Row], train: Sequence[Row], scenario: str, id: int, clients: int
) -> list[Row]:
    """A client's own test rows: those of its tasks (of its groups in scenario `column`); where
    rows name no task, every client gets an equal share."""
    if scenario == "column":
        groups = {row.group for row in train}
        return [row for row in test if row.group in groups]
    tasks = {row.task for row in train}
    if None in tasks:
        return list(test[id::clients])
    return [row for row in test if row.task in tasks]


def sample_test(rows: Sequence[Row], per_task: int | None, seed: int) -> list[Row]:
    """At most `per_task` rows of each task (None: all), drawn from the seed, in their order."""
    if per_task is None:
        return list(rows)
    by_task: dict[str | None, list[int]] = {}
    for i, row in enumerate(rows):
        by_task.setdefault(row.task, []).append(i)
    kept: list[int] = []
    for task, indices in by_task.items():
        order = generator(seed, "evaluation", task or "").permutation(len(indices))
        kept += [indices[i] for i in order[:per_task]]
    return [rows[i] for i in sorted(kept)]


def data_fingerprint(splits: Splits) -> str:
    """Hex digest of all rows, to notice data that changed under a run."""
    digest = hashlib.sha256()
    for row in [*splits.train, *splits.test]:
        digest.update(repr((row.instruction, row.response, row.task, row.group)).encode())
    return digest.hexdigest()[:32]
