"""The rows of a run, split once."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedrouter.config import DataConfig, Source
from fedrouter.data.notes import format_notes, unused_notes
from fedrouter.data.row_format import RowFormat
from fedrouter.data.rows import Row
from fedrouter.data.sources import SourceRows, hub_rows, path_rows, read_path
from fedrouter.data.split import split_rows
from fedrouter.errors import DataError
from fedrouter.seeding import derive_seed


@dataclass(frozen=True)
class Splits:
    """The training and the test rows of a run.

    Attributes:
        train: the rows to train on.
        test: the rows to test on.
        notes: lines for the user: the format of each file, and columns that are not used.
    """

    train: list[Row]
    test: list[Row]
    notes: tuple[str, ...] = field(default=(), compare=False)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the search for cycles, which rows never form: over a million, a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_paused()
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
        MissingExtraError: Parquet and Arrow files and hub datasets need the extra ``data``.
    """
    if data.builtin:
        from fedrouter.data.builtin import builtin_rows

        return Splits(*builtin_rows(data.builtin_train, data.builtin_test, seed))
    sources = _sources(data, seed)
    _check_same_naming(sources)
    sides = [side for source in sources for side in source.sides]
    formats = [note for side in sides for note in format_notes(*side)]
    unused = [note for side in sides for note in unused_notes(*side)]
    train = [row for source in sources if source.test for row in source.train_rows]
    test = [row for source in sources for file in source.test for row in file.rows]
    whole = [row for source in sources if not source.test for row in source.train_rows]
    if whole:
        with_file = data.train is not None
        try:
            kept, off = split_rows(whole, data.test_fraction, seed, test_file=with_file)
        except DataError as error:  # an unused column may be what tells the rows apart
            raise DataError("; ".join([str(error), *unused])) from error
        train, test = train + kept, test + off
    return Splits(train, test, (*formats, *unused))


@_collector_paused()
def read_rows(path: Path, data: DataConfig) -> Splits:
    """The rows of a file, folder or pattern, all of them as test rows.

    Args:
        path: the file, folder or pattern.
        data: the `[data]` section, of which columns and turns count.

    Raises:
        DataError: as `load_splits`.
    """
    files = read_path(path, RowFormat(data.columns, turns=data.turns))
    _check_same_naming([SourceRows(str(path), [], files)])
    notes = (*format_notes(str(path), files), *unused_notes(str(path), files))
    return Splits([], [row for file in files for row in file.rows], notes)


def _sources(data: DataConfig, seed: int) -> list[SourceRows]:
    layout = RowFormat(data.columns, group=data.split_column, turns=data.turns)
    if data.train is not None:
        test = [] if data.test is None else read_path(data.test, layout)
        return [SourceRows(str(data.train), read_path(data.train, layout), test, str(data.test))]
    if data.dataset is not None:
        return [hub_rows(Source(dataset=data.dataset), layout, seed)]
    return [
        _source(source, data, derive_seed(seed, "source", number))
        for number, source in enumerate(data.sources)
    ]


def _source(source: Source, data: DataConfig, seed: int) -> SourceRows:
    name = str(source.path or source.dataset)
    layout = RowFormat(
        source.columns,
        source.template,
        source.task,
        source.labels,
        source.skip_empty,
        data.split_column,
        data.turns,
        setting=f'columns.{{}} = "NAME" of data.sources entry {name!r}',
    )
    rows = (hub_rows if source.path is None else path_rows)(source, layout, seed)
    if not any(rows.train_rows):
        raise DataError(f"{name}: every row that was read is empty; check its columns")
    return rows


def _check_same_naming(sources: Sequence[SourceRows]) -> None:
    """Either all rows name their task or none does."""
    named: list[str] = []
    unnamed: list[str] = []
    for source in sources:
        for files, suffix in ((source.train, ""), (source.test, " (test rows)")):
            for file in files:
                if file.rows:
                    with_task = file.rows[0].task is not None
                    (named if with_task else unnamed).append(file.name + suffix)
    if named and unnamed:
        raise DataError(
            f"{named[0]} names the task of its rows and {unnamed[0]} does not; "
            "name the task of every row or of none"
        )
