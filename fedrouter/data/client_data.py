"""Who holds which rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from fedrouter.config import ResolvedConfig
from fedrouter.data.loading import Splits, load_splits
from fedrouter.data.partition import partition
from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.seeding import derive_seed, generator


@dataclass(frozen=True)
class ClientData:
    """The rows of one client.

    Attributes:
        train: its training rows, at least one.
        test: its own test rows.
        everything: all test rows, where the client has them (in an experiment on one machine).
    """

    train: Sequence[Row]
    test: Sequence[Row] = ()
    global_test: Sequence[Row] = ()


def deal(config: ResolvedConfig, splits: Splits, pooled: bool = False) -> list[ClientData]:
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
    seed = derive_seed(config.seed, "partition")
    test = sample_test(splits.test, config.evaluation.samples, config.seed)
    own_test = _OwnTest(test, data.scenario, number)
    dealt = []
    for id, share in enumerate(partition(splits.train, data.scenario, number, seed, data.alpha)):
        train = [splits.train[i] for i in share]
        own = own_test(id, train)
        dealt.append(ClientData(splits.train if pooled and id == 0 else train, own, test))
    return dealt


class _OwnTest:
    """The clients' own test rows; clients with the same tasks share one list.

    Args:
        test: all test rows.
        scenario: how training rows were dealt.
        clients: number of clients.
    """

    def __init__(self, test: Sequence[Row], scenario: str, clients: int) -> None:
        self._test = test
        self._clients = clients
        self._name = attrgetter("group" if scenario == "column" else "task")
        self._lists: dict[frozenset[str | None], list[Row]] = {}

    def __call__(self, client: int, train: Sequence[Row]) -> Sequence[Row]:
        """The test rows of the tasks of a client's training rows (of its groups in scenario
        `column`); where rows name no task, every client gets an equal share."""
        names = frozenset(self._name(row) for row in train)
        if None in names:
            return self._test[client :: self._clients]
        if names not in self._lists:
            self._lists[names] = [row for row in self._test if self._name(row) in names]
        return self._lists[names]


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
        parts = (row.instruction, row.response, row.task, row.group, *row.context)
        digest.update(repr(parts).encode())
    return digest.hexdigest()[:32]


def run_splits(config: ResolvedConfig, fingerprint: str | None) -> Splits:
    """The rows of a finished run, from the files that its configuration names.

    Args:
        config: the run's configuration.
        fingerprint: `data` of the run's summary, which is "" if the clients had data of their own;
            None: the run is of a version that did not write it, and nothing is checked.

    Raises:
        DataError: the rows are not on this machine, or differ from those of the run.
    """
    if fingerprint == "":
        raise DataError(
            "the rows of this run are with its clients, not on this machine; to score it on "
            "others: fedrouter evaluate DIR --data FILE"
        )
    splits = load_splits(config.data, config.seed)
    if fingerprint is not None and data_fingerprint(splits) != fingerprint:
        raise DataError(
            "the rows that the run's config.toml names are not those that it was trained and "
            "tested on; put those back"
        )
    return splits
