from pathlib import Path
from typing import Any

import pytest
from support.toys import toy_settings

from fedrouter.comparison import compare, markdown, tables
from fedrouter.comparison.equal_bytes import at_equal_bytes, evaluations
from fedrouter.comparison.grid import Cell
from fedrouter.comparison.results import combine
from fedrouter.config import load_config


def scores(loss: float) -> dict[str, Any]:
    one = {**dict.fromkeys(("rouge1", "rouge2", "rougeL", "exact_match"), 0.5), "loss": loss}
    return {"local": one, "global": one, "by_task": None}


def summary(loss: float, up: int, down: int, rounds: int) -> dict[str, Any]:
    return {
        "rounds": rounds,
        "metrics": scores(loss),
        "bytes": {"up": up, "down": down},
        "tokens": 1,
        "seconds": {"load": 1.0, "total": 2.0},
    }


def record(up: int, down: int, evaluated: tuple[int, float] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"bytes_up": up, "bytes_down": down}
    if evaluated:
        round, loss = evaluated
        found["evaluation"] = {"round": round, "metrics": scores(loss)}
    return found


def test_the_bytes_of_an_evaluation_are_those_of_the_rounds_before_it() -> None:
    # Profiles take 5 + 5; round 2 begins with the evaluation of round 1, and sends it along.
    records = [record(20, 20), record(20, 30, (1, 0.9)), record(20, 20, (2, 0.8))]
    found = evaluations(summary(0.7, 65, 75, rounds=3), records)
    assert [(one["round"], one["bytes"]) for one in found] == [(1, 50), (2, 100), (3, 140)]
    assert [one["global"]["loss"] for one in found] == [0.9, 0.8, 0.7]


def results() -> dict[str, Any]:
    """FedAvg sends 10 a round, FedRouter 20 after profiles of 5; `local` sends nothing."""
    rounds = [record(5, 5), *(record(5, 5, (r, 1 - r / 10)) for r in (1, 2))]
    larger = [record(10, 10), *(record(10, 10, (r, 0.8 - r / 5)) for r in (1, 2))]
    summaries = {
        Cell("fedavg", "dual", 1): summary(0.7, 15, 15, 3),
        Cell("fedrouter", "dual", 1): summary(0.1, 35, 30, 3),
        Cell("local", "dual", 1): summary(0.95, 0, 0, 3),
    }
    metrics = {Cell("fedavg", "dual", 1): rounds, Cell("fedrouter", "dual", 1): larger}
    return combine("", summaries, {}, metrics)


def test_strategies_count_with_the_last_evaluation_up_to_the_smallest_total() -> None:
    [found] = results()["equal_bytes"]
    assert (found["scenario"], found["bytes"]) == ("dual", 30)
    rows = {one["strategy"]: one for one in found["strategies"]}
    assert {name: row["round"]["mean"] for name, row in rows.items()} == {
        "fedavg": 3,
        "fedrouter": 1,
        "local": 3,
    }
    assert rows["fedrouter"]["bytes"]["mean"] == 25
    assert rows["fedrouter"]["global"]["loss"]["mean"] == pytest.approx(0.6)


def test_the_table_is_sorted_by_loss() -> None:
    *_, table = tables(results())
    assert table.title == "dual: scores at equal bytes, up to 0.00 MB"
    assert [row[0] for row in table.rows] == ["fedrouter", "fedavg", "local"]
    assert table.rows[0][1:] == ("0.500", "0.600", "0.500", "0.600", "1.0", "0.00", "1")
    assert "scores at equal bytes" in markdown(results())


def test_without_evaluations_during_training_there_is_no_table() -> None:
    cells = results()["cells"]
    last = [{**cell, "evaluations": cell["evaluations"][-1:]} for cell in cells]
    assert at_equal_bytes(last) == []
    assert at_equal_bytes([]) == []
    silent = [cell for cell in cells if cell["strategy"] == "local"]
    assert at_equal_bytes(silent) == []


@pytest.mark.slow
def test_a_comparison_at_equal_bytes(tiny_folder: Path, toy_data: Path, tmp_path: Path) -> None:
    sets = [
        *toy_settings(tiny_folder, toy_data),
        "compare.strategies=['fedavg','ffa']",
        "compare.scenarios=['dual']",
        "compare.seeds=[1]",
        "federation.rounds=3",
        "evaluation.every=1",
        "evaluation.samples=1",
    ]
    found = compare(load_config(None, sets), tmp_path / "comparison")
    [table] = found["equal_bytes"]
    rows = {one["strategy"]: one for one in table["strategies"]}
    totals = {c["strategy"]: c["bytes_up"] + c["bytes_down"] for c in found["cells"]}
    assert table["bytes"] == totals["ffa"] < totals["fedavg"]
    assert rows["ffa"]["round"]["mean"] == 3
    assert rows["fedavg"]["round"]["mean"] < 3
    assert rows["fedavg"]["bytes"]["mean"] <= table["bytes"]
