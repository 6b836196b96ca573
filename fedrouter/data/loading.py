"""The rows of a run and their only split into training and test rows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrouter.config import Columns, DataConfig, Source
from fedrouter.data.readers import Record, read_records
from fedrouter.data.row_format import RowFormat
from fedrouter.data.rows import Row
from fedrouter.errors import DataError, MissingExtraError
from fedrouter.seeding import derive_seed, generator


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
        from fedrouter.data.builtin import builtin_rows

        return Splits(*builtin_rows(data.builtin_train, data.builtin_test, seed))
    parts = _parts(data, seed)
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


def _parts(data: DataConfig, seed: int) -> list[_Part]:
    layout = RowFormat(data.columns, group=data.split_column)
    if data.train is not None:
        test = [] if data.test is None else layout.rows(read_records(data.test))
        return [_Part(str(data.train), layout.rows(read_records(data.train)), test)]
    if data.dataset is not None:
        return [_hub_part(Source(dataset=data.dataset), layout, seed)]
    return [
        _source_part(source, data.split_column, derive_seed(seed, "source", number))
        for number, source in enumerate(data.sources)
    ]


def _source_part(source: Source, group: str | None, seed: int) -> _Part:
    name = str(source.path or source.dataset)
    layout = RowFormat(
        source.columns,
        source.template,
        source.task,
        source.labels,
        source.skip_empty,
        group,
        setting=f'columns.{{}} = "NAME" of data.sources entry {name!r}',
    )
    if source.path is None:
        part = _hub_part(source, layout, seed)
    else:
        records = list(read_records(source.path))
        part = _Part(name, layout.rows(records[i] for i in _drawn(records, source, seed)), [])
    if not part.train:
        raise DataError(f"{name}: every row that was read is empty; check its columns")
    return part


def _drawn(items: Sequence[Any], source: Source, seed: int) -> list[int]:
    """Indices of the rows to use, in order: all, or `rows` of them at random."""
    if source.rows is None or source.rows >= len(items):
        return list(range(len(items)))
    chosen = generator(seed, "rows").choice(len(items), source.rows, replace=False)
    return sorted(chosen.tolist())


def _hub_part(source: Source, layout: RowFormat, seed: int) -> _Part:
    """The rows of a hub dataset, for training and, where it brings them, for testing."""
    name, splits = str(source.dataset), _load_hub_dataset(source)
    if "train" not in splits:
        raise DataError(f"dataset {name} has no split 'train' (it has {', '.join(splits)})")
    items, own = splits["train"], splits.get("test", ()) if source.own_test else ()
    train = _hub_records(f"{name} (train)", items, _drawn(items, source, seed))
    test = _hub_records(f"{name} (test)", own, range(len(own)))
    return _Part(name, layout.rows(train), layout.rows(test))


def _load_hub_dataset(source: Source) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"dataset {source.dataset}", "data") from error
    asked = {"name": source.subset, "data_dir": source.folder, "revision": source.revision}
    given = {key: value for key, value in asked.items() if value is not None}
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(source.dataset, **given)
    except Exception as error:  # whatever the hub's client, the network and the files may raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"dataset {source.dataset} cannot be loaded ({reason}); check its name and the "
            "network, or give its files instead"
        ) from error
    return splits


def _hub_records(name: str, items: Any, indices: Iterable[int]) -> Iterator[Record]:
    for index in indices:
        yield Record(f"dataset {name}: row {index + 1}", items[index])


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
