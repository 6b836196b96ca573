"""How the command line reads prompts."""

import io
import sys
from pathlib import Path

import pytest

from fedrouter.cli.prompts import one_line, read_prompts
from fedrouter.errors import DataError

TWO = "first\r\n\r\nsecond \n"


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch):
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def test_a_prompt_has_any_number_of_lines(stdin, tmp_path: Path) -> None:
    stdin(TWO.encode())
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfa\n\nb\n")
    read = read_prompts(["x\ny", "-"], tmp_path / "prompt.txt", lines=False, jsonl=False)
    assert read == ["x\ny", "first\r\n\r\nsecond ", "a\n\nb"]


def test_one_prompt_a_line(stdin) -> None:
    stdin(TWO.encode())
    assert read_prompts(["a\nb"], Path("-"), lines=True, jsonl=False) == [
        "a\nb",
        "first",
        "second ",
    ]


def test_one_json_text_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"a\\nb"\n\n{"prompt": "c"}\n{"instruction": "d", "response": "e"}\n')
    assert read_prompts([], file, lines=False, jsonl=True) == ["a\nb", "c", "d"]


@pytest.mark.parametrize("line", ["plain", "3", '{"text": "a"}', '{"prompt": 3}'])
def test_a_line_without_a_prompt_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'"a"\n{line}\n')
    with pytest.raises(DataError, match="line 2: expected a JSON text, or an object with"):
        read_prompts([], file, lines=False, jsonl=True)


@pytest.mark.parametrize("data", [b"", b" \n\n"])
def test_no_prompt(stdin, data: bytes) -> None:
    for lines in (False, True):
        stdin(data)
        with pytest.raises(DataError, match="there is no prompt"):
            read_prompts(["-"], None, lines=lines, jsonl=False)


def test_what_cannot_be_read(stdin, tmp_path: Path) -> None:
    stdin(b"caf\xe9\n")
    with pytest.raises(DataError, match="standard input is not UTF-8"):
        read_prompts(["-"], None, lines=False, jsonl=False)
    with pytest.raises(DataError, match="gone cannot be read"):
        read_prompts([], tmp_path / "gone", lines=False, jsonl=False)
    with pytest.raises(DataError, match="a prompt is not UTF-8"):
        read_prompts(["caf\udce9"], None, lines=False, jsonl=False)
    with pytest.raises(DataError, match="--lines and --jsonl"):
        read_prompts(["a"], None, lines=True, jsonl=True)


def test_one_line() -> None:
    assert one_line("a\n b") == "a b"
    assert one_line("x" * 100) == "x" * 89 + "…"
