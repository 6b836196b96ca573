import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.places import SHARED

from fedrouter.config import Columns, DataConfig, Source
from fedrouter.data.loading import Splits, load_splits
from fedrouter.data.readers import Record, read_records
from fedrouter.data.row_format import RowFormat
from fedrouter.data.row_format.templates import parse_template
from fedrouter.data.rows import Row
from fedrouter.data.split import split_rows
from fedrouter.errors import ConfigError, DataError, MissingExtraError


def jsonl(path: Path, items: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def pair(i: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"question {i}", "response": f"answer {i}", **more}


def load(path: Path, **settings: Any) -> list[Row]:
    """All rows of a file, through the same file as its test set."""
    return load_splits(DataConfig(train=path, test=path, **settings), seed=0).train


def message(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


# -- what is read ------------------------------------------------------------------------------


def test_jsonl_with_tasks_blank_lines_and_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"instruction": "a\\u0000b", "response": "yes", "task": "t"}\r\n'
        b"\r\n" + '{"instruction": "line\u2028separator", "response": " no\\n", "task": 3}'.encode()
    )
    assert load(path) == [Row("a\0b", "yes", "t"), Row("line\u2028separator", " no\n", "3")]


def test_huge_line(tmp_path: Path) -> None:
    long = "x" * 2_000_000
    [row] = load(jsonl(tmp_path / "a.jsonl", [{"instruction": long, "response": "y"}]))
    assert row.instruction == long
    (tmp_path / "a.csv").write_text(f"instruction,response\n{long},y\n")
    assert load(tmp_path / "a.csv") == [row]


def test_compressed_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(pair(1)).encode()))
    assert load(path) == [Row("question 1", "answer 1")]


def test_json_list(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([pair(1, task=None), pair(2, task="")]))
    assert load(path) == [Row("question 1", "answer 1"), Row("question 2", "answer 2")]


def test_csv_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('instruction,response,task\n"a, ""b""\nc",1,t\n\nd,e,t\n', encoding="utf-8")
    assert load(path) == [Row('a, "b"\nc', "1", "t"), Row("d", "e", "t")]


def test_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"q": ["a", "b"], "label": [1, 0]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    columns = Columns(instruction="q", response="label")
    assert load(tmp_path / "rows.parquet", columns=columns) == [Row("a", "1"), Row("b", "0")]


def test_numbers_are_responses(tmp_path: Path) -> None:
    items = [{"instruction": "a", "response": value} for value in (0, -3, 2.5)]
    assert [row.response for row in load(jsonl(tmp_path / "a.jsonl", items))] == ["0", "-3", "2.5"]


def test_columns_and_split_column(tmp_path: Path) -> None:
    items = [{"q": "a", "a": "b", "kind": "t", "site": 7}]
    rows = load(
        jsonl(tmp_path / "a.jsonl", items),
        columns=Columns(instruction="q", response="a", task="kind"),
        scenario="column",
        split_column="site",
    )
    assert rows == [Row("a", "b", "t", "7")]


def test_given_test_file_is_the_test_set(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", map(pair, range(5)))
    test = jsonl(tmp_path / "test.jsonl", map(pair, range(5, 7)))
    splits = load_splits(DataConfig(train=train, test=test), seed=0)
    assert [row.response for row in splits.train] == [f"answer {i}" for i in range(5)]
    assert [row.response for row in splits.test] == ["answer 5", "answer 6"]


def test_builtin_tasks_when_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("a", "b", "t")], [Row("c", "d", "t")]
    asked = []

    class Fake:
        @staticmethod
        def builtin_rows(*arguments: int) -> tuple[list[Row], list[Row]]:
            asked.append(arguments)
            return rows

    monkeypatch.setitem(sys.modules, "fedrouter.data.builtin", Fake)
    assert load_splits(DataConfig(builtin_train=3, builtin_test=2), seed=9) == Splits(*rows)
    assert asked == [(3, 2, 9)]


# -- several sources ---------------------------------------------------------------------------


def test_sources_with_their_own_columns_template_and_task(tmp_path: Path) -> None:
    one = [{"dialogue": f"talk {i} {{x}}", "summary": f"s{i}", "n": i} for i in range(5)]
    two = [{"q": f"q{i}", "response": f"r{i}", "task": "ignored"} for i in range(5)]
    sources = (
        Source(
            path=jsonl(tmp_path / "one.jsonl", one),
            columns=Columns(response="summary"),
            template="Summarise {n}: {dialogue} {{}}",
            task="summary",
        ),
        Source(
            path=jsonl(tmp_path / "two.jsonl", two), columns=Columns(instruction="q"), task="qa"
        ),
    )
    splits = load_splits(DataConfig(sources=sources), seed=0)
    rows = {row.instruction: row for row in splits.train + splits.test}
    assert rows["Summarise 3: talk 3 {x} {}"] == Row("Summarise 3: talk 3 {x} {}", "s3", "summary")
    assert rows["q4"] == Row("q4", "r4", "qa")
    assert Counter(row.task for row in splits.test) == {"summary": 1, "qa": 1}
    assert len(splits.train) == 8


@pytest.mark.parametrize(
    "template",
    ["{a.b}", "{a[0]}", "{a.__class__}", "{}", "{a!r}", "{a:>5}", "{a:{b}}", "plain", "{a", "a}"],
)
def test_template_reaches_nothing_but_columns(template: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_template(template)
    assert repr(template) in message(caught)


def test_template_fields_may_be_empty_but_not_the_whole() -> None:
    layout = RowFormat(Columns(), template="{q} {context}")
    assert layout.rows([Record("x:1", {"q": "a", "context": "", "response": "b"})])[0] == Row(
        "a ", "b"
    )
    with pytest.raises(DataError, match="x:2: the instruction that the template makes is empty"):
        layout.rows([Record("x:2", {"q": "", "context": " ", "response": "b"})])
    with pytest.raises(DataError, match="x:3: no column 'context'"):
        layout.rows([Record("x:3", {"q": "a", "response": "b"})])


def test_instruction_in_a_template_is_the_mapped_column() -> None:
    layout = RowFormat(Columns(instruction="q"), template="Answer: {instruction}")
    [row] = layout.rows([Record("x:1", {"q": "a", "instruction": "no", "response": "b"})])
    assert row == Row("Answer: a", "b")


def test_sources_name_their_tasks_or_none_does(tmp_path: Path) -> None:
    paths = [jsonl(tmp_path / f"{name}.jsonl", map(pair, range(9))) for name in "ab"]
    sources = (Source(path=paths[0], task="t"), Source(path=paths[1]))
    with pytest.raises(DataError) as caught:
        load_splits(DataConfig(sources=sources), seed=0)
    assert message(caught) == (
        f"{paths[0]} names the task of its rows and {paths[1]} does not; "
        "name the task of every row or of none"
    )


def test_labels_lists_and_empty_values(tmp_path: Path) -> None:
    items = [
        {"input": ["a | b", "c | d"], "label": 1},
        {"input": [], "label": 0},
        {"input": ["e"], "label": 0},
        {"input": None, "label": 0},
        {"input": ["f"], "label": None},
    ]
    path = jsonl(tmp_path / "a.jsonl", items)
    settings: dict[str, Any] = {
        "path": path,
        "template": "{input}",
        "columns": Columns(response="label"),
        "labels": {"0": "No", "1": "Yes"},
    }
    sources = (Source(skip_empty=True, **settings),)
    splits = load_splits(DataConfig(sources=sources, test_fraction=0.4), seed=0)
    assert {*splits.train, *splits.test} == {Row("a | b, c | d", "Yes"), Row("e", "No")}
    with pytest.raises(DataError, match=r"a\.jsonl:2: the instruction that the template makes is"):
        load_splits(DataConfig(sources=(Source(**settings),)), seed=0)


def test_a_label_that_is_not_named_is_refused() -> None:
    layout = RowFormat(Columns(), labels={"0": "No", "1": "Yes"})
    with pytest.raises(DataError) as caught:
        layout.rows([Record("x:1", {"instruction": "a", "response": -1})])
    assert message(caught) == (
        "x:1: 'response' is '-1', for which the source's labels (0, 1) say nothing; add it there"
    )


def test_skipping_empty_rows_hides_neither_missing_columns_nor_empty_sources(
    tmp_path: Path,
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"instruction": " ", "response": "b"}])
    with pytest.raises(DataError, match=r"a\.jsonl: every row that was read is empty"):
        load_splits(DataConfig(sources=(Source(path=path, skip_empty=True),)), seed=0)
    with pytest.raises(DataError, match="no column 'q'"):
        source = Source(path=path, skip_empty=True, columns=Columns(instruction="q"))
        load_splits(DataConfig(sources=(source,)), seed=0)


def test_hint_in_a_source_names_its_own_setting(tmp_path: Path) -> None:
    source = Source(path=jsonl(tmp_path / "a.jsonl", [{"instruct": "a", "response": "b"}]))
    with pytest.raises(DataError, match=r"columns\.instruction = \"NAME\" of data\.sources entry"):
        load_splits(DataConfig(sources=(source,)), seed=0)


# -- the hub -----------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    shelf: dict[str, Any] = {}
    asked: list[tuple[str, dict[str, str]]] = shelf.setdefault("asked", [])

    def load_dataset(name: str, /, **where: str) -> Any:
        asked.append((name, where))
        if name not in shelf:
            raise ConnectionError(f"Couldn't reach '{name}' on the Hub\n(offline)")
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(items) for split, items in shelf[name].items()}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return shelf


def test_hub_dataset_with_train_and_test(hub: dict[str, Any]) -> None:
    hub["org/name"] = {"train": [pair(1), pair(2)], "test": [pair(3)], "other": [{"x": 1}]}
    splits = load_splits(DataConfig(dataset="org/name"), seed=0)
    assert splits == Splits(
        [Row("question 1", "answer 1"), Row("question 2", "answer 2")],
        [Row("question 3", "answer 3")],
    )


def test_hub_dataset_with_train_only(hub: dict[str, Any]) -> None:
    hub["name"] = {"train": [pair(i) for i in range(10)]}
    splits = load_splits(DataConfig(dataset="name"), seed=0)
    assert (len(splits.train), len(splits.test)) == (8, 2)


def test_sources_keep_the_test_rows_they_bring(hub: dict[str, Any], tmp_path: Path) -> None:
    hub["name"] = {"train": [pair(i) for i in range(100, 105)], "test": [pair(200)]}
    path = jsonl(tmp_path / "a.jsonl", map(pair, range(10)))
    data = DataConfig(sources=(Source(path=path), Source(dataset="name")))
    splits = load_splits(data, seed=0)
    assert (len(splits.train), len(splits.test)) == (13, 3)
    assert Row("question 200", "answer 200") in splits.test


def test_a_source_says_where_in_a_hub_dataset_its_rows_are(hub: dict[str, Any]) -> None:
    hub["glue"] = {"train": [pair(i) for i in range(10)], "test": [pair(20, response="-1")]}
    where = {"subset": "qqp", "folder": "en", "revision": "refs/convert/parquet"}
    splits = load_splits(
        DataConfig(sources=(Source(dataset="glue", own_test=False, **where),)), seed=0
    )
    assert (len(splits.train), len(splits.test)) == (8, 2)
    assert hub["asked"] == [
        ("glue", {"name": "qqp", "data_dir": "en", "revision": "refs/convert/parquet"})
    ]


def test_rows_are_drawn_by_the_seed(hub: dict[str, Any], tmp_path: Path) -> None:
    items = [pair(i) for i in range(100)]
    hub["name"] = {"train": items, "test": [pair(200)]}
    path = jsonl(tmp_path / "a.jsonl", items)

    def drawn(seed: int, **where: Any) -> list[str]:
        splits = load_splits(DataConfig(sources=(Source(rows=5, **where),)), seed)
        return sorted(row.response for row in splits.train + splits.test)

    assert len(drawn(1, path=path)) == 5
    assert drawn(1, path=path) == drawn(1, path=path) != drawn(2, path=path)
    assert drawn(1, dataset="name", own_test=False) == drawn(1, path=path)
    assert drawn(1, dataset="name") == sorted([*drawn(1, path=path), "answer 200"])


def test_hub_errors(hub: dict[str, Any]) -> None:
    hub["name"] = {"validation": [pair(1)]}
    hub["odd"] = {"train": [{"text": "a", "response": "b"}]}
    with pytest.raises(DataError) as caught:
        load_splits(DataConfig(dataset="away"), seed=0)
    assert message(caught) == (
        "dataset away cannot be loaded (Couldn't reach 'away' on the Hub); check its name and "
        "the network, or give its files instead"
    )
    with pytest.raises(DataError, match=r"no split 'train' \(it has validation\)"):
        load_splits(DataConfig(dataset="name"), seed=0)
    with pytest.raises(DataError, match=r"dataset odd \(train\): row 1: no column 'instruction'"):
        load_splits(DataConfig(dataset="odd"), seed=0)


def test_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("datasets", "pyarrow.lib", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrouter\[data\]'"):
        load(tmp_path / "a.parquet")
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrouter\[data\]'"):
        load_splits(DataConfig(dataset="name"), seed=0)


# -- files that cannot be read -----------------------------------------------------------------

HINT = "name the right one with --set data.columns"
BAD_LINES = [
    ("{", "invalid JSON (Expecting property name enclosed in double quotes at column 2); mend"),
    ('{"instruction": "a",}', "invalid JSON"),
    ("[" * 100_000, "invalid JSON"),
    ("9" * 5000, "invalid JSON"),
    ("[1]", "a list, not an object such as"),
    ("null", "null, not an object such as"),
    ('"text"', "a text, not an object such as"),
    ('{"response": "b"}', f"no column 'instruction'; it has 'response'; {HINT}.instruction=NAME"),
    (
        '{"instructions": "a", "response": "b"}',
        f"no column 'instruction'; the nearest is 'instructions'; {HINT}.instruction=NAME",
    ),
    ('{"instruction": "a"}', f"no column 'response'; it has 'instruction'; {HINT}.response=NAME"),
    ("{}", "no column 'instruction'; it has none"),
    ('{"instruction": " ", "response": "b"}', "'instruction' is empty; fill it in or remove"),
    ('{"instruction": "a", "response": ""}', "'response' is empty; fill it in or remove"),
    ('{"instruction": null, "response": "b"}', "'instruction' is null, not a text; mend or remove"),
    ('{"instruction": 5, "response": "b"}', "'instruction' is a number, not a text"),
    ('{"instruction": true, "response": "b"}', "'instruction' is a truth value, not a text"),
    ('{"instruction": "a", "response": null}', "'response' is null, not a text"),
    ('{"instruction": "a", "response": ["b"]}', "'response' is a list, not a text"),
    ('{"instruction": "a", "response": {}}', "'response' is an object, not a text"),
    ('{"instruction": "a", "response": NaN}', "'response' is not a finite number, not a text"),
    ('{"instruction": "\\ud83d", "response": "b"}', "'instruction' holds half a character"),
    ('{"instruction": "a", "response": "b", "task": []}', "'task' is a list, not a text"),
    ('{"instruction": "a", "response": "b", "task": "t"}', "a task, unlike the rows before it"),
]


@pytest.mark.parametrize(("line", "expected"), BAD_LINES)
def test_bad_line(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(pair(1))}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load(path)
    assert message(caught).startswith(f"{path}:3: {expected}")


def test_row_without_the_task_that_others_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [pair(1, task="t"), pair(2)])
    with pytest.raises(DataError, match=r"a\.jsonl:2: no task, unlike the rows before it"):
        load(path)


def test_columns_that_are_mapped_must_be_there(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [pair(1, kind="t")])
    with pytest.raises(DataError, match=r"no column 'kin'; the nearest is 'kind'.*columns\.task="):
        load(path, columns=Columns(task="kin"))
    with pytest.raises(DataError, match=r"a\.jsonl:1: no column 'site'.*data\.split_column"):
        load(path, scenario="column", split_column="site")


def test_test_file_must_name_tasks_as_the_training_file_does(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [pair(1, task="t")])
    test = jsonl(tmp_path / "test.jsonl", [pair(2)])
    with pytest.raises(DataError, match=r"train\.jsonl names the task .* \(test rows\) does not"):
        load_splits(DataConfig(train=train, test=test), seed=0)


BAD_FILES = [
    ("empty.jsonl", b"", " is empty; give a file with at least one row"),
    ("blank.jsonl", b"\n \n", " is empty"),
    ("empty.json", b"", " is empty"),
    ("none.json", b"[]", " is empty"),
    ("empty.csv", b"", " is empty"),
    ("header.csv", b"instruction,response\n", " is empty"),
    ("empty.parquet", b"", " is empty"),
    (
        "rows.txt",
        b"x",
        ": unknown kind of data file; use .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, "
        ".feather, also with .gz after it",
    ),
    ("rows", b"x", ": unknown kind of data file"),
    (
        "latin.jsonl",
        b'{"instruction": "a", "response": "b"}\n"caf\xe9"',
        ":2: not UTF-8 (byte 0xe9); save the file as",
    ),
    ("latin.csv", b"instruction,response\na,b\nc,\xff\n", ":3: not UTF-8 (byte 0xff)"),
    ("wide.jsonl", '{"a": 1}'.encode("utf-16"), ":1: not UTF-8"),
    ("object.json", b'{"data": []}', " holds an object, not a list of objects"),
    ("lines.json", b'{"a": 1}\n{"a" 2}', ":2: invalid JSON (Expecting ':' delimiter at column 6)"),
    ("broken.json", b'[\n{"a": 1},\n{"a" 2}\n]', ":3: invalid JSON"),
    ("item.json", b'[{"instruction": "a", "response": "b"}, 3]', ": item 2: a number, not an obj"),
    ("short.csv", b"instruction,response\na,b\nc\n", ":3: 'response' is empty"),
    ("long.csv", b"instruction,response\na,b,c\n", ":2: 3 values under a header of 2 columns"),
    ("twice.csv", b"instruction,response,response\na,b,c\n", ":1: 2 columns are named 'response'"),
    ("open.csv", b'instruction,response\na,b\n"c,d\n\n', ":3: invalid CSV"),
    (
        "one.csv",
        b"instruction\na\n",
        ":1: the header is the one column 'instruction'; separate the",
    ),
    (
        "joined.csv",
        b"instruction;response\na;b\ninstruction;response\n",
        ":3: the header once more, as in joined files; remove the line",
    ),
    ("long.tsv", b"instruction\tresponse\na\tb\tc\n", ":2: 3 values under a header of 2 columns"),
    ("torn.parquet", b"PAR1 and no more", " is not a valid Parquet file"),
    ("torn.jsonl.gz", gzip.compress(b"{}\n" * 99)[:-9], " cannot be read"),
    ("plain.jsonl.gz", b"{}\n", " cannot be read: Not a gzipped file"),
]


@pytest.mark.parametrize(("name", "content", "expected"), BAD_FILES, ids=[f[0] for f in BAD_FILES])
def test_bad_file(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
        load(path)
    assert message(caught).startswith(f"{path}{expected}")


def read(path: Path) -> list[Record]:
    return list(read_records(path))


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.txt", "absent"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert message(caught) == f"{tmp_path / name} does not exist; check the path"


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        read(tmp_path)


# -- the split ---------------------------------------------------------------------------------


def test_split_by_hand() -> None:
    rows = [Row(f"{task}{i}", "r", task) for task, n in (("a", 10), ("b", 5), ("c", 1)) for i in
            range(n)]  # fmt: skip
    train, test = split_rows(rows, 0.2, seed=0)
    assert Counter(row.task for row in test) == {"a": 2, "b": 1}
    assert Counter(row.task for row in train) == {"a": 8, "b": 4, "c": 1}
    assert split_rows(rows, 0.2, seed=1)[1] != test


def test_same_instruction_is_never_on_both_sides() -> None:
    rows = [Row("same", str(i)) for i in range(6)] + [Row(str(i), "r") for i in range(4)]
    for seed in range(20):
        train, test = split_rows(rows, 0.3, seed)
        assert not {row.instruction for row in train} & {row.instruction for row in test}
        assert len(test) == 3  # the six fit in no test set of three


def test_too_few_rows_to_split() -> None:
    with pytest.raises(DataError) as caught:
        split_rows([Row(str(i), "r") for i in range(4)], 0.1, seed=0)
    assert message(caught) == (
        "data.test_fraction = 0.1 of 4 rows leaves none to test on; "
        "set it to 0.25 or more, or give more rows, or name a data.test file"
    )
    assert len(split_rows([Row(str(i), "r") for i in range(4)], 0.25, seed=0)[1]) == 1


def test_the_fraction_that_is_advised_splits() -> None:
    rows = [Row(str(i // 3), "r", "t" if i < 9 else "u") for i in range(30)]
    with pytest.raises(DataError) as caught:
        split_rows(rows, 0.1, seed=0)
    match = re.search(r"set it to ([\d.]+) or more", message(caught))
    assert match is not None
    assert float(match[1]) == 0.15  # 3 of the 21 rows of task u
    assert len(split_rows(rows, 0.15, seed=0)[1]) == 3


def test_rows_of_one_instruction_cannot_be_split() -> None:
    with pytest.raises(DataError) as caught:
        split_rows([Row("a", "b"), Row("a", "c")], 0.5, seed=0)
    assert message(caught) == (
        "no row can be split off for testing: all 2 rows have the same instruction, and such rows "
        "stay on one side of the split; add rows with other instructions, or name a data.test file"
    )
    with pytest.raises(DataError, match="all rows of each task have the same instruction"):
        split_rows([Row("a", "b", "t"), Row("a", "c", "t"), Row("d", "e", "u")], 0.5, seed=0)
    with pytest.raises(DataError, match="1 row cannot be split for testing; give more rows"):
        split_rows([Row("a", "b")], 0.5, seed=0)


def test_a_conversation_is_never_on_both_sides() -> None:
    rows = [
        Row(f"{i} {turn}" if turn else "hello", "r", conversation=f"c{i}")
        for i in range(10)
        for turn in range(2)
    ]
    with pytest.raises(DataError, match="belong to conversations that share a prompt"):
        split_rows(rows, 0.5, seed=0)
    apart = [Row(f"{i} {i % 2}", "r", conversation=f"c{i // 2}") for i in range(20)]
    train, test = split_rows(apart, 0.3, seed=0)
    assert not {row.conversation for row in train} & {row.conversation for row in test}
    assert len(test) == 6


@given(
    keys=st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["a", "b", None])), max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
@settings(max_examples=150)
def test_split_properties(keys: list[tuple[int, str | None]], fraction: float, seed: int) -> None:
    rows = [Row(f"q{key}", f"r{i}", task) for i, (key, task) in enumerate(keys)]
    try:
        train, test = split_rows(rows, fraction, seed)
    except DataError:
        return
    assert split_rows(rows, fraction, seed) == (train, test)
    assert sorted(train + test, key=rows.index) == rows
    assert [row for row in rows if row in train] == train
    assert not {row.instruction for row in train} & {row.instruction for row in test}
    sizes, tested = Counter(row.task for row in rows), Counter(row.task for row in test)
    for task, size in sizes.items():
        assert tested[task] <= min(round(fraction * size), size - 1)
    if len({row.instruction for row in rows}) == len(rows):
        assert tested == {
            task: n for task, size in sizes.items() if (n := min(round(fraction * size), size - 1))
        }


@pytest.mark.slow
def test_flan8() -> None:
    folder = SHARED / "data" / "flan8"
    if not folder.is_dir():
        pytest.skip("needs the shared FLAN data")
    data = DataConfig(train=folder / "train.jsonl", test=folder / "test.jsonl")
    splits = load_splits(data, seed=0)
    assert (len(splits.train), len(splits.test)) == (2400, 1600)
    assert set(Counter(row.task for row in splits.train).values()) == {300}
    assert set(Counter(row.task for row in splits.test).values()) == {200}
    alone = load_splits(DataConfig(train=data.train), seed=0)
    assert {row.instruction for row in alone.train}.isdisjoint(
        row.instruction for row in alone.test
    )
