"""Lines for the user about the files that were read."""

from collections.abc import Callable, Iterable, Sequence

from fedrouter.data.row_format import FileRows


def format_notes(path: str, files: Sequence[FileRows]) -> list[str]:
    """The formats of files, each with its number of rows: "rows.jsonl: chat messages, 120 rows".

    Args:
        path: the file, folder or pattern that stands for all of them.
        files: what was read.
    """
    return [
        f"{name}: {format}, {_counted(sum(len(file.rows) for file in same))}"
        for name, format, same in _alike(path, files, lambda file: [file.format])
    ]


def unused_notes(path: str, files: Sequence[FileRows]) -> list[str]:
    """The columns of files that are not used; see `format_notes`."""
    return [f"{name}: {note}" for name, note, _ in _alike(path, files, lambda file: file.unused)]


def _alike(
    path: str, files: Sequence[FileRows], notes: Callable[[FileRows], Iterable[str]]
) -> list[tuple[str, str, list[FileRows]]]:
    """Each note with the files that it is true of, and what to call these."""
    groups: dict[str, list[FileRows]] = {}
    for file in files:
        for note in notes(file) if file.rows else ():
            groups.setdefault(note, []).append(file)
    return [(_name(path, same, len(files)), note, same) for note, same in groups.items()]


def _name(path: str, same: Sequence[FileRows], number: int) -> str:
    """What to call some of a number of files."""
    if len(same) == 1:
        return same[0].name
    if len(same) == number:
        return f"{path} ({number} files)"
    return f"{same[0].name} and {len(same) - 1} more"


def _counted(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"
