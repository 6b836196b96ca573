import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedrouter.comparison.runs import compare_runs, run_tables
from fedrouter.errors import RunError
from fedrouter.storage.run_folder import MARKER


@pytest.fixture
def pair(toy_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and one with another rank whose scores are known."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        shutil.copytree(toy_run, folder)
    config = tomllib.loads((other / "config.toml").read_text())
    config["adapter"]["rank"] = 16
    (other / "config.toml").write_text(MARKER + tomli_w.dumps(config))
    change(other, tokens=1234567, bytes={"up": 2_500_000, "down": 10})
    return one, other


def change(run: Path, **values: Any) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, **values}))


def cells(found: dict[str, Any]) -> dict[str, dict[str, tuple[str, ...]]]:
    return {
        table.title: {row[0]: tuple(row[1:]) for row in table.rows} for table in run_tables(found)
    }


def test_settings_scores_and_costs_side_by_side(pair: tuple[Path, Path]) -> None:
    found = compare_runs(pair)
    shown = cells(found)
    assert found["settings"] == {"adapter.rank": [2, 16]}
    assert found["warnings"] == []
    assert [run["name"] for run in found["runs"]] == ["one", "other"]
    assert shown["Settings that differ"] == {"adapter.rank": ("2", "16")}
    assert shown["Costs"]["trained tokens"][1] == "1,234,567"
    assert shown["Costs"]["MB from clients"][1] == "2.50"
    metrics = json.loads((pair[0] / "summary.json").read_text())["metrics"]
    scores = shown["ROUGE-1, all tasks"]
    assert list(scores) == ["colour", "count", "strip", "all rows"]
    value = f"{metrics['by_task']['colour']['global']['rouge1']:.3f}"
    assert scores["colour"] == (value, value)
    assert scores["all rows"][0] == f"{metrics['global']['rouge1']:.3f}"


def test_what_a_run_lacks_is_a_dash(pair: tuple[Path, Path]) -> None:
    nothing = dict.fromkeys(("local", "global", "base", "by_task"))
    change(pair[1], metrics=nothing, tasks=[], data="", base_fingerprint="x")
    found = compare_runs(pair)
    shown = cells(found)
    assert shown["exact match, all tasks"]["colour"][1] == "-"
    assert shown["Costs"]["tasks"] == ("3", "-")
    assert len(found["warnings"]) == 2


def test_runs_of_the_same_name_are_told_apart(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(pair[0], tmp_path / "elsewhere" / "one")
    found = compare_runs([pair[0], tmp_path / "elsewhere" / "one"])
    assert [run["name"] for run in found["runs"]] == [run["folder"] for run in found["runs"]]
    assert found["settings"] == {}
    assert "Settings that differ" not in cells(found)


def test_folders_that_are_no_finished_runs(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="two run folders or more"):
        compare_runs(pair[:1])
    with pytest.raises(RunError, match="is not a run folder"):
        compare_runs([pair[0], tmp_path])
    (pair[1] / "summary.json").unlink()
    with pytest.raises(RunError, match="fedrouter resume"):
        compare_runs(pair)
