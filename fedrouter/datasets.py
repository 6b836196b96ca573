"""The rows of a run and their only split into training and test rows."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrouter.columns import RowFormat
from fedrouter.config import Columns, DataConfig, Source
from fedrouter.errors import DataError, MissingExtraError
from fedrouter.files import Record, read_records
from fedrouter.rows import Row
from fedrouter.seeding import generator


@dataclass(frozen=True)
class Splits:
    """The training and the test rows of a run."""

    train: list[Row]
    test: list[Row]


def load_splits(data: DataConfig, seed: int) -> Splits:
    """The rows that the `[data]` section names, split once.

    Built-in tasks where it names none. A test file, or a hub dataset's own split "test", is the
    test set of the rows it belongs to; off all other rows `split_rows` splits one.

    Args:
        data: the `[data]` section.
        seed: the run's seed.

    Raises:
        DataError: a file, hub dataset or row that cannot be used, or rows too few to split.
        ConfigError: a source's template has a field that is not a plain column name.
        MissingExtraError: Parquet files and hub datasets need the extra ``data``.
    """
    if data.builtin:
        from fedrouter.builtin_tasks import builtin_rows

        return Splits(*builtin_rows(data.builtin_train, data.builtin_test, seed))
    parts = _parts(data)
    _check_same_naming(parts)
    train = [row for part in parts if part.test for row in part.train]
    test = [row for part in parts for row in part.test]
    whole = [row for part in parts if not part.test for row in part.train]
    if whole:
        kept, split_off = split_rows(whole, data.test_fraction, seed)
        train, test = train + kept, test + split_off
    return Splits(train, test)


def read_rows(path: Path, columns: Columns) -> list[Row]:
    """The rows of one file.

    Raises:
        DataError: as `load_splits`.
    """
    return RowFormat(columns).rows(read_records(path))


def split_rows(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and test rows, both in the order of `rows`.

    Of each task's n rows at most round(fraction n) are split off for testing, and never all n.
    Rows with the same instruction stay on one side, so that a task may get a few test rows less.

    Args:
        rows: all rows; those without a task count as one task.
        fraction: share of test rows, between 0 and 1.
        seed: the run's seed.

    Raises:
        DataError: no row is left to test on.
    """
    same_instruction: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        same_instruction[row.instruction].append(i)
    sizes = Counter(row.task for row in rows)
    room = {task: min(round(fraction * n), n - 1) for task, n in sizes.items()}
    groups = list(same_instruction.values())
    chosen: set[int] = set()
    for i in generator(seed, "split").permutation(len(groups)):
        tasks = Counter(rows[j].task for j in groups[i])
        if all(n <= room[task] for task, n in tasks.items()):
            chosen.update(groups[i])
            for task, n in tasks.items():
                room[task] -= n
    if not chosen:
        raise DataError(
            f"data.test_fraction = {fraction} of {len(rows)} rows leaves none to test on; "
            "name a data.test file, give more rows or a larger fraction"
        )
    train = [row for i, row in enumerate(rows) if i not in chosen]
    return train, [row for i, row in enumerate(rows) if i in chosen]


@dataclass(frozen=True)
class _Part:
    """The rows of one source; `test` is empty where it brings no test rows of its own."""

    name: str
    train: list[Row]
    test: list[Row]


def _parts(data: DataConfig) -> list[_Part]:
    layout = RowFormat(data.columns, group=data.split_column)
    if data.train is not None:
        test = [] if data.test is None else layout.rows(read_records(data.test))
        return [_Part(str(data.train), layout.rows(read_records(data.train)), test)]
    if data.dataset is not None:
        return [_hub_part(data.dataset, layout)]
    return [_source_part(source, data.split_column) for source in data.sources]


def _source_part(source: Source, group: str | None) -> _Part:
    setting = f'columns.{{}} = "NAME" of data.sources entry {str(source.path or source.dataset)!r}'
    layout = RowFormat(source.columns, source.template, source.task, group, setting)
    if source.path is not None:
        return _Part(str(source.path), layout.rows(read_records(source.path)), [])
    assert source.dataset is not None, "the configuration checks this"
    return _hub_part(source.dataset, layout)


def _hub_part(name: str, layout: RowFormat) -> _Part:
    splits = _load_hub_dataset(name)
    if "train" not in splits:
        raise DataError(f"dataset {name} has no split 'train' (it has {', '.join(splits)})")
    train, test = (
        layout.rows(_hub_records(name, split, splits.get(split, ()))) for split in ("train", "test")
    )
    return _Part(name, train, test)


def _load_hub_dataset(name: str) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"dataset {name}", "data") from error
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(name)
    except Exception as error:  # whatever the hub's client, the network and the files may raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"dataset {name} cannot be loaded ({reason}); check its name and the network, "
            "or give its files as data.train and data.test"
        ) from error
    return splits


def _hub_records(name: str, split: str, items: Any) -> Iterator[Record]:
    for number, values in enumerate(items, start=1):
        yield Record(f"dataset {name} ({split}): row {number}", values)


def _check_same_naming(parts: Sequence[_Part]) -> None:
    """Either all rows name their task or none does."""
    sides = [
        (f"{part.name}{suffix}", rows[0].task is not None)
        for part in parts
        for suffix, rows in (("", part.train), (" (test rows)", part.test))
        if rows
    ]
    named = [name for name, has_task in sides if has_task]
    unnamed = [name for name, has_task in sides if not has_task]
    if named and unnamed:
        raise DataError(
            f"{named[0]} names the task of its rows and {unnamed[0]} does not; "
            "name the task of every row or of none"
        )
