import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedrouter.report import write_report
from fedrouter.report.examples import by_task
from fedrouter.storage.predictions import CollectedPrediction, read_predictions


def prediction(answer: str, rouge1: float = 1.0, **more: Any) -> CollectedPrediction:
    given = {
        "prompt": f"prompt of {answer}",
        "context": [],
        "expected": "e",
        "answer": answer,
        "true_task": "dates",
        "task": "task-00",
        "confidence": 0.75,
        "adapters": {"task-00": 1.0},
        "scores": {"rouge1": rouge1, "exact_match": 0.0, "loss": 1.0},
        "clients": [0],
    }
    return CollectedPrediction(**{**given, **more})  # type: ignore[typeddict-item]


def answers(predictions: Any) -> list[str]:
    return [one["answer"] for one in predictions]


def test_the_best_and_the_worst_of_a_task() -> None:
    scores = {"c": 0.5, "a": 1.0, "e": 0.0, "b": 0.9, "d": 0.1}
    dates = by_task(prediction(name, score) for name, score in scores.items())["dates"]
    assert (answers(dates.best), answers(dates.worst)) == (["a", "b"], ["e", "d"])
    assert (dates.count, dates.total) == (5, 2.5)


@pytest.mark.parametrize(("number", "shown"), [(1, (1, 0)), (2, (1, 1)), (3, (2, 1)), (4, (2, 2))])
def test_no_answer_is_shown_twice(number: int, shown: tuple[int, int]) -> None:
    dates = by_task(prediction(str(i)) for i in range(number))["dates"]
    assert (len(dates.best), len(dates.worst)) == shown
    assert len({*answers(dates.best), *answers(dates.worst)}) == sum(shown)


def test_rows_without_a_true_task_are_shown_by_the_task_they_were_routed_to() -> None:
    rows = [prediction("x", true_task=None), prediction("y", true_task=None, task=None)]
    assert list(by_task([*rows, prediction("z")])) == ["all", "dates", "task-00"]


def report_of(run: Path, tmp_path: Path, lines: list[CollectedPrediction]) -> str:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return write_report(copy).read_text()


def test_texts_are_escaped_and_long_ones_cut(toy_run: Path, tmp_path: Path) -> None:
    lines = [
        prediction("<script>alert(1)</script>", prompt="p" * 2000),
        prediction("fallback", adapters={}, confidence=0.25),
    ]
    text = report_of(toy_run, tmp_path, lines)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "p" * 800 + "… (2,000 characters)" in text
    assert "the base model (out of distribution)" in text
    assert "dates: 2 answers, ROUGE-1 1.000" in text


def test_a_run_of_before_is_reported_without_examples(toy_run: Path, tmp_path: Path) -> None:
    assert "<h2>Examples</h2>" not in report_of(toy_run, tmp_path, [])


def test_the_report_of_a_run_has_examples_of_each_task(toy_run: Path, tmp_path: Path) -> None:
    lines = list(read_predictions(toy_run))
    text = report_of(toy_run, tmp_path, lines)
    assert text.count('<div class="example">') == 3 * 4
    assert "routed to</dt><dd>task-0" in text
