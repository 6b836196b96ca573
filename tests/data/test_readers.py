import gzip
import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrouter.data.readers import data_files, read_records
from fedrouter.data.readers.delimited import SEPARATORS, find_separator
from fedrouter.errors import DataError

ROWS = [{"instruction": "a; b, c", "response": "1"}, {"instruction": "d\te", "response": "2"}]
BOM = b"\xef\xbb\xbf"


def values(path: Path) -> list[dict[str, Any]]:
    return [dict(record.values) for record in read_records(path)]


def places(path: Path) -> list[str]:
    return [record.place.removeprefix(str(path)) for record in read_records(path)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def separated(separator: str) -> bytes:
    rows = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    return "".join(separator.join(f'"{cell}"' for cell in row) + "\r\n" for row in rows).encode()


LAYOUTS: dict[str, bytes] = {
    "lines": lines(ROWS),
    "lines, the last without end": lines(ROWS)[:-1],
    "blank lines": b"\n" + lines(ROWS).replace(b"\n", b"\r\n\r\n"),
    "list": json.dumps(ROWS).encode(),
    "list over lines": json.dumps(ROWS, indent=2).encode(),
    "list, an object a line": b"[\n" + lines(ROWS)[:-1].replace(b"}\n", b"},\n") + b"\n]\n",
    "objects over lines": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "two lists": b"\n".join(json.dumps([row]).encode() for row in ROWS),
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.JSON.GZ", "b.c.jsonl.gz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_json_file_holds_lines_or_a_list_whatever_its_name(
    tmp_path: Path, name: str, layout: str
) -> None:
    content = LAYOUTS[layout]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    assert values(path) == ROWS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bom_in_front_of_a_json_file_and_between_two_is_harmless(
    tmp_path: Path, layout: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(BOM + LAYOUTS[layout] + b"\n" + BOM + LAYOUTS[layout])
    assert values(path) == ROWS + ROWS


def test_files_joined_without_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n" + LAYOUTS["lines, the last without end"] + BOM + LAYOUTS["lines"])
    assert values(path) == ROWS + ROWS
    assert places(path) == [":2", ":3", ":3", ":4"]


def test_places_of_json_records(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\n\n{"a": 1}\n\n{"a": 2}\n')
    assert places(path) == [":3", ":5"]
    path.write_bytes(b'\n{\n"a": 1}\n\n{"a":\n 2} {"a": 3}\n')
    assert places(path) == [":2", ":5", ":6"]
    path.write_bytes(b'[{"a": 1},\n{"a": 2}]')
    assert places(path) == [": item 1", ": item 2"]


def test_one_object_alone_is_a_row_in_jsonl_only(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_bytes(b'{"instruction": "a"}')
    assert values(tmp_path / "a.jsonl") == [{"instruction": "a"}]
    with pytest.raises(DataError, match="holds an object, not a list of objects; put the rows in"):
        values(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'[{"instruction": "a"}]')  # as that says
    assert values(tmp_path / "a.json") == [{"instruction": "a"}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n{"a": 2} x\n', ":2: invalid JSON (Expecting value at column 10)"),
        (b'{"a": 1,\n"b": }\n', ":2: invalid JSON (Expecting value at column 6)"),
        (b'{"a": "1\n{"a": 2}\n', ":1: invalid JSON (Invalid control character"),
        (b'{"a": 1,}\n{"a": 2}\n', ":1: invalid JSON (Expecting property name"),
        (b'[{"a": 1},\n{"a": 2},]\n', ":2: invalid JSON"),
    ],
)
def test_the_line_of_broken_json_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        values(path)
    assert str(caught.value).startswith(f"{path}{expected}")
    assert "\n" not in str(caught.value)


# -- separators --------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.TSV.gz"])
@pytest.mark.parametrize("bom", [b"", BOM])
def test_the_separator_is_found(tmp_path: Path, name: str, separator: str, bom: bytes) -> None:
    path = tmp_path / name
    content = bom + separated(separator)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert values(path) == ROWS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("instruction;response\nAdd 1,5 and 2,5;4,0\n", ";"),
        ("instruction\tresponse\na, b; c\td | e\n", "\t"),
        ("instruction|response\na, b|c, d\n", "|"),
        ('"a;b",response\n"c;d",e\n', ","),
        ("question; short,answer\na,b\nc,d\n", ","),
        ("question, short;answer\na;b\nc;d\n", ";"),
        ('instruction;response\n"two\nlines, of; text";a\n', ";"),
        ("instruction\na\n", ","),
        ("", ","),
    ],
)
def test_separators_by_hand(text: str, expected: str) -> None:
    assert find_separator(text.splitlines(keepends=True)) == expected


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@given(
    separator=st.sampled_from(SEPARATORS),
    table=st.lists(st.tuples(cells, cells), min_size=1, max_size=8),
)
@settings(max_examples=200)
def test_quoted_cells_come_back_under_every_separator(
    tmp_path_factory: pytest.TempPathFactory, separator: str, table: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    rows = [("instruction", "response"), *table]
    quoted = [[cell.replace('"', '""') for cell in row] for row in rows]
    path.write_text(
        "".join(separator.join(f'"{cell}"' for cell in row) + "\n" for row in quoted),
        encoding="utf-8",
        newline="",
    )
    assert [tuple(row.values()) for row in values(path)] == table


def test_a_line_that_names_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(BOM + b"sep=;\r\ninstruction;response\r\na,b,c;d\r\ne;f\r\n")
    assert values(path) == [
        {"instruction": "a,b,c", "response": "d"},
        {"instruction": "e", "response": "f"},
    ]
    assert places(path) == [":3", ":4"]


def test_blanks_around_the_names_of_columns_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"instruction , response\na, b\n")
    assert values(path) == [{"instruction": "a", "response": " b"}]


def test_line_ends_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'q;a\r1;"x\ry"\r2;z')
    assert values(path) == [{"q": "1", "a": "x\ry"}, {"q": "2", "a": "z"}]


def test_csv_files_joined_after_the_repeated_header_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    part = BOM + b"q,a\n1,2\n"
    path.write_bytes(part + part)
    with pytest.raises(DataError, match=r"a\.csv:3: the header once more.*; remove the line"):
        values(path)
    path.write_bytes(part + BOM + b"1,2\n")
    assert values(path) == [{"q": "1", "a": "2"}] * 2


# -- Parquet and Arrow -------------------------------------------------------------------------


def table() -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.table(
        {
            "instruction": ["a", "b"],
            "response": pyarrow.array([1 / 3, 0.1], pyarrow.float32()),
            "half": pyarrow.array([[0.1, None], None], pyarrow.list_(pyarrow.float16())),
            "day": [date(2024, 2, 29), None],
            "price": pyarrow.array([Decimal("1.50"), None], pyarrow.decimal128(5, 2)),
            "word": pyarrow.array(["x", "y"]).dictionary_encode(),
        }
    )


def write_parquet(table: Any, path: Path) -> None:
    pytest.importorskip("pyarrow.parquet").write_table(table, path)


def write_feather(table: Any, path: Path) -> None:
    pytest.importorskip("pyarrow.feather").write_feather(table, str(path))


def write_stream(table: Any, path: Path) -> None:
    ipc = pytest.importorskip("pyarrow.ipc")
    with ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.parquet", write_parquet), ("a.feather", write_feather), ("a.arrow", write_stream)],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_parquet_and_arrow(
    tmp_path: Path, name: str, write: Callable[[Any, Path], None], compressed: bool
) -> None:
    path = tmp_path / name
    write(table(), path)
    if compressed:
        path, plain = tmp_path / f"{name}.gz", path
        path.write_bytes(gzip.compress(plain.read_bytes()))
    first, second = values(path)
    assert [str(value) for value in first.values()] == [
        "a", "0.33333334", "[np.float16(0.1), None]", "2024-02-29", "1.50", "x",
    ]  # fmt: skip
    assert str(second["response"]) == "0.1"
    assert second["half"] is second["day"] is second["price"] is None
    assert places(path) == [": row 1", ": row 2"]


def test_what_datasets_saves_is_a_folder_of_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list(ROWS)
    part.save_to_disk(tmp_path / "one")
    assert [file.suffix for file in data_files(tmp_path / "one")] == [".arrow"]
    assert [values(file) for file in data_files(tmp_path / "one")] == [ROWS]
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError) as caught:
        data_files(tmp_path / "both")
    folder = tmp_path / "both"
    assert str(caught.value) == (
        f"{folder} is a folder without data files; name one that has some "
        f"({folder}/test, {folder}/train), or all with the pattern {folder}/**/*"
    )
    assert len(data_files(folder / "train")) == 1
    assert len(data_files(folder / "**" / "*")) == 2


# -- folders and patterns ----------------------------------------------------------------------


def test_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv.gz", "c.txt", ".d.jsonl", "in/e.json", "in/[1].jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")

    def names(path: Path) -> list[str]:
        return [str(file.relative_to(tmp_path)) for file in data_files(path)]

    assert names(tmp_path) == ["a.csv.gz", "b.jsonl"]
    assert names(tmp_path / "*.jsonl") == ["b.jsonl"]
    assert names(tmp_path / "**" / "*.json*") == ["b.jsonl", "in/[1].jsonl", "in/e.json"]
    assert names(tmp_path / "in" / "[1].jsonl") == ["in/[1].jsonl"]
    assert names(tmp_path / "absent.jsonl") == ["absent.jsonl"]  # the reader says that it is
    with pytest.raises(DataError, match=r"\*\.csv matches no data file; check the pattern"):
        data_files(tmp_path / "*.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty is a folder without data files; put in files that"):
        data_files(tmp_path / "empty")
