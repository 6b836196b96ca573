"""Every configuration that is shipped loads, and runs with stand-ins for what is not shipped."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from support.places import ROOT

from fedrouter.comparison import compare
from fedrouter.comparison.grid import Cell, cell_config, check_cells, grid
from fedrouter.config import load_config, strategy_names
from fedrouter.config.resolve import resolve
from fedrouter.data.loading import load_splits

CONFIGS = ROOT / "configs"

# Rows with the columns of the four data sets of the paper.
STAND_INS: dict[str, Callable[[int], dict[str, Any]]] = {
    "qqp": lambda i: {
        "question1": f"Is {i} odd?",
        "question2": f"Is {i + i % 2} odd?",
        "label": i % 2,
        "idx": i,
    },
    "webnlg": lambda i: {
        "gem_id": str(i),
        "input": [f"Town_{i} | country | Land_{i}", f"Town_{i} | people | {i}00"],
        "target": f"Town {i} in Land {i} has {i}00 people.",
        "references": [],
    },
    "samsum": lambda i: {
        "id": str(i),
        "dialogue": f"Ann: {i} today?\r\nBob: Yes!" if i else None,
        "summary": f"It is {i}.",
    },
    "gigaword": lambda i: {
        "document": f"shares rose ## points on day {i} , traders said .",
        "summary": f"shares up on day {i}",
    },
}
HUB_KEYS = {"dataset", "subset", "folder", "revision", "own_test"}
SMALL = [
    "model.dtype=float32",
    "model.max_length=480",
    "federation.rounds=2",
    "training.steps=1",
    "training.batch_size=2",
    "evaluation.samples=1",
    "evaluation.max_new_tokens=2",
]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_cell_of_a_shipped_configuration_is_valid(path: Path) -> None:
    config = load_config(path)
    check_cells(config, grid(config.compare))


def stand_in(folder: Path) -> Path:
    """paper.toml with local files in place of the hub's: every other key is as it is there."""
    raw = tomllib.loads((CONFIGS / "paper.toml").read_text(encoding="utf-8"))
    for source in raw["data"]["sources"]:
        items = [STAND_INS[source["task"]](i) for i in range(30)]
        path = folder / f"{source['task']}.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
        for key in HUB_KEYS & source.keys():
            del source[key]
        source["path"] = str(path)
    (folder / "paper.toml").write_text(tomli_w.dumps(raw), encoding="utf-8")
    return folder / "paper.toml"


def test_papers_rows(tmp_path: Path) -> None:
    splits = load_splits(load_config(stand_in(tmp_path)).data, seed=111)
    rows = {row.instruction: row for row in [*splits.train, *splits.test]}
    assert (rows["Is 3 odd?-Is 4 odd?"].response, rows["Is 4 odd?-Is 4 odd?"].response) == (
        "Yes",
        "No",
    )
    town = rows["Town_7 | country | Land_7, Town_7 | people | 700"]
    assert (town.task, town.response) == ("webnlg", "Town 7 in Land 7 has 700 people.")
    assert rows["Ann: 9 today?\r\nBob: Yes!"].response == "It is 9."
    assert len([row for row in rows.values() if row.task == "samsum"]) == 29  # one is empty
    assert len([row for row in splits.test if row.task == "gigaword"]) == 6


def test_papers_setting_is_the_papers() -> None:
    config = load_config(CONFIGS / "paper.toml")
    assert (config.federation.clients, config.federation.rounds) == (8, 25)
    assert config.compare.seeds == (111, 222, 333, 444, 555)
    assert config.compare.scenarios == ("single", "dual", "all")
    assert len(grid(config.compare)) == 5 * 3 * len(strategy_names())
    for source in config.data.sources:
        assert source.rows is not None
        kept = source.rows * (1 - config.data.test_fraction)
        assert kept * len(config.data.sources) / config.federation.clients == 600  # of a client
        assert source.rows - kept == config.evaluation.samples


def test_papers_comparison_runs_on_stand_ins(tmp_path: Path, tiny_folder: Path) -> None:
    sets = [*SMALL, f"model.name={tiny_folder}", "compare.strategies=['fedrouter', 'local']"]
    config = load_config(stand_in(tmp_path), [*sets, "compare.seeds=[111]"])
    results = compare(config, tmp_path / "c")
    assert len(results["cells"]) == 6
    assert results["failures"] == []
    for cell in results["cells"]:
        assert sorted(cell["by_task"]) == ["gigaword", "qqp", "samsum", "webnlg"]


def test_flan8_trains_equally_many_batches_in_every_scenario() -> None:
    config = load_config(CONFIGS / "flan8.toml")
    batches = set()
    for scenario in config.compare.scenarios:
        cell = cell_config(config, Cell("fedrouter", scenario, 1))
        resolved = resolve(cell, [])
        assert resolved.clustering.n_local is not None
        batches.add(resolved.clustering.n_local * resolved.training.steps)
    assert len(batches) == 1


def test_flan8_runs_on_the_builtin_tasks(tmp_path: Path) -> None:
    sets = ["federation.rounds=1", "compare.strategies=['fedrouter']", "compare.seeds=[1]"]
    quick = ["compare.scenarios=['dual']", "evaluation.samples=1", "evaluation.max_new_tokens=2"]
    less = ["data.builtin_train=40", "data.builtin_test=4", "training.batch_size=1"]
    config = load_config(CONFIGS / "flan8.toml", [*sets, *quick, *less])
    [cell] = compare(config, tmp_path / "c")["cells"]
    assert cell["local"]["rouge1"] >= 0
