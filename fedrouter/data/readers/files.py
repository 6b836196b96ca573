"""Which data files a path names, and what reads each of them."""

from collections.abc import Callable, Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO

from fedrouter.data.readers.arrow import read_arrow, read_parquet
from fedrouter.data.readers.delimited import read_csv
from fedrouter.data.readers.json_files import read_json, read_json_document
from fedrouter.data.readers.records import Record
from fedrouter.errors import DataError

READERS: dict[str, Callable[[str, BinaryIO], Iterator[Record]]] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json_document,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
KINDS = f"{', '.join(READERS)}, also with .gz after it"
# What `datasets` writes beside the rows of a data set that it saves.
METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def data_files(path: Path) -> list[Path]:
    """The data files that a path names, sorted.

    A folder stands for the data files directly in it, a pattern such as ``rows/*.jsonl`` for those
    that match it (``**`` matches folders at any depth). Other and hidden files are left out.

    Raises:
        DataError: there is none.
    """
    if path.is_dir():
        files = _readable(path.iterdir())
        if not files:
            raise DataError(f"{path} is a folder without data files; {_advice(path)}")
        return files
    if path.exists() or not has_magic(str(path)):
        return [path]
    files = _readable(Path(match) for match in glob(str(path), recursive=True))  # noqa: PTH207
    if not files:
        raise DataError(f"{path} matches no data file; check the pattern, or name a file")
    return files


def extension(path: Path) -> tuple[str, bool]:
    """A data file's extension in lower case, without .gz, and whether it ended in .gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    return "".join(suffixes[-2:-1] if compressed else suffixes[-1:]), compressed


def _readable(paths: Iterable[Path]) -> list[Path]:
    """Those that are data files by their names, sorted."""
    return sorted(
        path
        for path in paths
        if extension(path)[0] in READERS
        and path.name not in METADATA
        and not path.name.startswith(".")
        and path.is_file()
    )


def _advice(folder: Path) -> str:
    """What a user can do about a folder without data files."""
    inner = sorted({file.parent.relative_to(folder) for file in _readable(folder.glob("**/*"))})
    if inner:
        names = ", ".join(str(folder / name) for name in inner[:5])
        return f"name one that has some ({names}), or all with the pattern {folder}/**/*"
    return f"put in files that end in {KINDS}"
