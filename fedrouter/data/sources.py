"""One source of rows: files, or a dataset of the Hugging Face hub."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedrouter.config import Source
from fedrouter.data.readers import Record, data_files, read_records
from fedrouter.data.readers.arrow import converted, narrow_floats
from fedrouter.data.readers.records import first_line
from fedrouter.data.row_format import FileRows, RowFormat
from fedrouter.data.rows import Row
from fedrouter.errors import DataError, MissingExtraError
from fedrouter.seeding import generator


@dataclass(frozen=True)
class SourceRows:
    """The rows of one source.

    Attributes:
        name: a path or the hub's name.
        train: its files; of a hub dataset, the split "train".
        test: the same of test rows of its own; empty where it brings none.
        test_name: where these are, if not in `name`.
    """

    name: str
    train: list[FileRows]
    test: list[FileRows]
    test_name: str | None = None

    @property
    def train_rows(self) -> Iterator[Row]:
        """The rows to train on, or to split."""
        return (row for file in self.train for row in file.rows)

    @property
    def sides(self) -> list[tuple[str, list[FileRows]]]:
        """Training and test files, each with the name of the path that stands for them."""
        return [(self.name, self.train), (self.test_name or self.name, self.test)]


def read_path(path: Path, layout: RowFormat) -> list[FileRows]:
    """All rows of a file, or of the files in a folder or that match a pattern."""
    return [layout.read(str(file), read_records(file)) for file in data_files(path)]


def path_rows(source: Source, layout: RowFormat, seed: int) -> SourceRows:
    """The rows of a source's files, or those of them that are drawn."""
    assert source.path is not None, "a source of files"
    if source.rows is None:
        return SourceRows(str(source.path), read_path(source.path, layout), [])
    files = data_files(source.path)
    records = [list(read_records(file)) for file in files]
    ends = list(accumulate(map(len, records)))
    drawn = _drawn(ends[-1], source.rows, seed)
    rows = []
    for file, held, end in zip(files, records, ends, strict=True):
        chosen = [held[i - end] for i in drawn if end - len(held) <= i < end]
        rows.append(layout.read(str(file), chosen))
    return SourceRows(str(source.path), rows, [])


def hub_rows(source: Source, layout: RowFormat, seed: int) -> SourceRows:
    """The rows of a hub dataset, for training and, where it brings them, for testing."""
    name, splits = str(source.dataset), _load_hub_dataset(source)
    if "train" not in splits:
        raise DataError(f"dataset {name} has no split 'train' (it has {', '.join(splits)})")
    items, own = splits["train"], splits.get("test", ()) if source.own_test else ()
    drawn = _drawn(len(items), source.rows, seed)
    train = layout.read(f"dataset {name} (train)", _hub_records(f"{name} (train)", items, drawn))
    records = _hub_records(f"{name} (test)", own, range(len(own)))
    test = [layout.read(f"dataset {name} (test)", records)] if own else []
    return SourceRows(name, [train], test)


def _drawn(number: int, rows: int | None, seed: int) -> Sequence[int]:
    """Indices of the rows to use, in order: all of them, or so many at random."""
    if rows is None or rows >= number:
        return range(number)
    chosen: list[int] = generator(seed, "rows").choice(number, rows, replace=False).tolist()
    return sorted(chosen)


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
        raise DataError(
            f"dataset {source.dataset} cannot be loaded ({first_line(error)}); check its name and "
            "the network, or give its files instead"
        ) from error
    return splits


def _hub_records(name: str, items: Any, indices: Iterable[int]) -> Iterator[Record]:
    if not len(items):
        return
    converts = narrow_floats(items.features.arrow_schema)
    for index in indices:
        yield Record(f"dataset {name}: row {index + 1}", converted(items[index], converts))
