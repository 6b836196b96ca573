import json
from pathlib import Path

import pytest

from fedrouter.errors import RunError
from fedrouter.storage import predictions
from fedrouter.storage.predictions import (
    ANSWERS,
    PREDICTIONS,
    Prediction,
    collect,
    encode,
    keep,
    read_predictions,
)


def prediction(prompt: str, answer: str) -> Prediction:
    return Prediction(
        prompt=prompt,
        context=[],
        expected="yes",
        answer=answer,
        true_task=None,
        task="task-00",
        confidence=0.5,
        adapters={},
        scores={"rouge1": 1.0},
    )


def stored(run: Path, answers: dict[int, list[str]]) -> None:
    for client, texts in answers.items():
        folder = run / "clients" / f"client-{client:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        keep(folder, (prediction(f"row {i}", text) for i, text in enumerate(texts)))


def test_clients_with_the_same_answers_share_their_lines(tmp_path: Path) -> None:
    stored(tmp_path, {0: ["a", "b"], 1: ["a", "c"], 12: ["a", "b"]})
    assert collect(tmp_path) == 0
    lines = list(read_predictions(tmp_path))
    found = [(line["prompt"], line["answer"], line["clients"]) for line in lines]
    assert found == [
        ("row 0", "a", [0, 12]),
        ("row 1", "b", [0, 12]),
        ("row 0", "a", [1]),
        ("row 1", "c", [1]),
    ]
    assert {**lines[0]} == {**prediction("row 0", "a"), "clients": [0, 12]}
    assert not list(tmp_path.glob("clients/*/*"))


def test_the_same_answers_of_many_clients_are_stored_once(tmp_path: Path) -> None:
    stored(tmp_path, {client: ["a"] for client in range(50)} | {50: ["b"]})
    assert len(list(tmp_path.glob(f"clients/{ANSWERS}/*"))) == 2


def test_a_client_that_answers_again_is_collected_once(tmp_path: Path) -> None:
    """As after a crash in the evaluation, where answers may differ in the last bit."""
    stored(tmp_path, {0: ["a"], 1: ["a"]})
    stored(tmp_path, {0: ["b"], 1: ["a"]})
    (tmp_path / "clients/client-001" / ANSWERS).write_text("../../elsewhere")  # no digest
    assert collect(tmp_path) == 0
    assert [(line["answer"], line["clients"]) for line in read_predictions(tmp_path)] == [
        ("b", [0])
    ]


def test_where_no_client_has_stored_any_there_is_no_file(tmp_path: Path) -> None:
    assert collect(tmp_path) == 0
    assert not list(tmp_path.iterdir())
    assert list(read_predictions(tmp_path)) == []


def test_texts_of_any_kind_are_one_line_each(tmp_path: Path) -> None:
    text = 'two\nlines\u2028, "quotes", \ud800 half a character, ä'
    stored(tmp_path, {0: [text]})
    collect(tmp_path)
    [line] = read_predictions(tmp_path)
    assert line["answer"] == text.replace("\ud800", "?")


def test_a_file_too_large_to_be_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path, {0: ["a", "b", "c", "d"]})
    one = len(next(encode([prediction("row 0", "a")]))) + 20
    monkeypatch.setattr(predictions, "LARGEST", 2 * one)
    assert collect(tmp_path) == 2
    assert [line["answer"] for line in read_predictions(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("line", ["no JSON", "[]", json.dumps({"prompt": "p"}), "[" * 10**5])
def test_a_line_that_is_no_prediction_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / PREDICTIONS).write_text(line + "\n")
    with pytest.raises(RunError, match=r"predictions\.jsonl, line 1: no prediction"):
        list(read_predictions(tmp_path))
