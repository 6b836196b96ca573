import json
import sys

import pytest
from support.places import ROOT

from fedrouter.errors import MissingExtraError
from fedrouter.evaluation.metrics import exact_match

SCRIPTS = ROOT / "scripts"
SAMPLE = 40  # questions of each task


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import make_reasoning_rows

    return make_reasoning_rows


@pytest.fixture
def installed(script):
    pytest.importorskip("reasoning_gym")
    return script


def test_missing_package(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrouter\[reasoning\]'"):
        script.make_rows(1, 1, seed=0)


def test_rows_are_distinct_and_repeatable(installed):
    train, test = installed.make_rows(30, 10, seed=1)
    assert (len(train), len(test)) == (30 * 16, 10 * 16)
    instructions = [row["instruction"] for row in train + test]
    assert len(set(instructions)) == len(instructions)
    assert {row["task"] for row in test} == {row["task"] for row in train} == set(installed.TASKS)
    assert (train, test) == installed.make_rows(30, 10, seed=1)
    assert (train, test) != installed.make_rows(30, 10, seed=2)


def test_more_training_rows_leave_the_test_rows_alone(installed):
    assert installed.make_rows(5, 10, seed=1)[1] == installed.make_rows(20, 10, seed=1)[1]


def test_too_many_rows(installed, monkeypatch):
    monkeypatch.setattr(installed, "TASKS", {"gcd": {"min_value": 1, "max_value": 2}})
    with pytest.raises(SystemExit, match="gcd: expected 10 different questions, found"):
        installed.make_rows(5, 5, seed=0)


def test_exact_match_is_the_checker(installed):
    for task in installed.TASKS:
        dataset = installed.dataset(task, 1, SAMPLE)
        entries = [dataset[i] for i in range(SAMPLE)]
        for entry in entries:
            for answer in ["", *(str(other["answer"]) for other in entries)]:
                right = dataset.score_answer(answer, entry) == 1.0
                assert right == (exact_match(answer, str(entry["answer"])) == 1.0), (task, answer)


def test_files(installed, monkeypatch, tmp_path, capsys):
    out = tmp_path / "rows"
    command = f"make_reasoning_rows.py {out} --train-rows 2 --test-rows 1"
    monkeypatch.setattr(sys, "argv", command.split())
    installed.main()
    lines = (out / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"instruction", "response", "task"}] * 16
    assert f"{out / 'train.jsonl'}: 32 rows of 16 tasks" in capsys.readouterr().out
