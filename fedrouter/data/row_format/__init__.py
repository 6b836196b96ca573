"""Records -> rows: which columns hold a row's parts, and what they may hold."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedrouter.data.readers import Record
from fedrouter.data.row_format.formats import recognize
from fedrouter.data.row_format.row_reader import RowReader, RowSettings
from fedrouter.data.row_format.templates import parse_template
from fedrouter.data.row_format.unused import UnusedColumns
from fedrouter.data.rows import Row
from fedrouter.errors import DataError


@dataclass(frozen=True)
class FileRows:
    """The rows of a file.

    Attributes:
        name: the file's name.
        rows: in order.
        format: the name of their format.
        unused: lines about columns that are not used.
    """

    name: str
    rows: list[Row]
    format: str = ""
    unused: tuple[str, ...] = ()


class RowFormat(RowSettings):
    """Reads the rows of a file's records."""

    def rows(self, records: Iterable[Record]) -> list[Row]:
        """The rows of all records, in order; see `read`."""
        return self.read("", records).rows

    def read(self, name: str, records: Iterable[Record]) -> FileRows:
        """The rows of a file's records, in order. The first record decides on their format.

        Raises:
            ConfigError: the template has a field that is not a plain column name.
            DataError: a record lacks a part or holds an unfit value; the place is named.
        """
        pieces = None if self.template is None else parse_template(self.template)
        fields = None if pieces is None else [field for _, field in pieces if field is not None]
        rows: list[Row] = []
        reader: RowReader | None = None
        for record in records:
            if reader is None:
                format = recognize(record.values.keys(), self.columns, fields)
                reader = RowReader(self, format, pieces)
                unused = UnusedColumns(reader.used)
            unused.look(record.values)
            if self.skip_empty and reader.lacks_a_value(record):
                continue
            rows += reader.rows(record)
            if (rows[-1].task is None) != (rows[0].task is None):
                raise _unlike(record.place, rows[-1].task)
        if reader is None:
            return FileRows(name, rows)
        notes = unused.notes(reader.format, self.setting, fields)
        return FileRows(name, rows, reader.format.name, tuple(notes))


def _unlike(place: str, task: str | None) -> DataError:
    found = "no task" if task is None else "a task"
    return DataError(
        f"{place}: {found}, unlike the rows before it; name the task of every row or of none"
    )
