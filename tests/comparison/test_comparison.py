import csv
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.toys import toy_settings

from fedrouter.cli import app
from fedrouter.comparison import compare, harness, markdown, notes, tables
from fedrouter.comparison.grid import Cell, cell_config, check_cells, grid
from fedrouter.comparison.results import combine
from fedrouter.comparison.statistics import paired_difference, spread
from fedrouter.config import Config, dump_config, load_config, strategy_names
from fedrouter.errors import ConfigError, DataError, ModelError, RunError
from fedrouter.progress import Progress
from fedrouter.storage.run_folder import RunFolder

Scores = dict[str, float]


def scores(rouge1: float) -> Scores:
    return {
        "rouge1": rouge1,
        "rouge2": rouge1 / 2,
        "rougeL": rouge1 / 2,
        "exact_match": rouge1 / 4,
        "loss": 1 - rouge1,
    }


def summary(local: float | None, everywhere: float | None, tokens: int = 1000) -> dict[str, Any]:
    return {
        "strategy": "fedrouter",
        "scenario": "dual",
        "seed": 1,
        "rounds": 1,
        "clients": 2,
        "tasks": [],
        "history": [],
        "metrics": {
            "local": None if local is None else scores(local),
            "global": None if everywhere is None else scores(everywhere),
            "base": None,
            "by_task": None,
        },
        "routing": dict.fromkeys(("accuracy", "ari", "nmi", "train_purity", "confusion")),
        "bytes": {"up": 2_000_000, "down": 3_000_000},
        "tokens": tokens,
        "seconds": {"load": 5.0, "total": 12.5},
        "base_fingerprint": "tiny",
    }


def config(*sets: str) -> Config:
    return load_config(None, list(sets))


def small(
    strategies: str = "fedrouter,fedavg", scenarios: str = "dual", seeds: str = "1"
) -> Config:
    lists = {"strategies": strategies, "scenarios": scenarios}
    quoted = [f"compare.{k}={json.dumps(v.split(','))}" for k, v in lists.items()]
    return config(*quoted, f"compare.seeds=[{seeds}]")


class FakeBase:
    fingerprint = "tiny"


class FakeResident:
    base = FakeBase()

    @classmethod
    def load(cls, *_: object) -> "FakeResident":
        return cls()


class Runs:
    """Stands in for `Experiment`: remembers what was run, fails where it is told to."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.resumed: list[str] = []
        self.residents: set[int] = set()
        self.fail: dict[str, Exception | type[BaseException]] = {}

    def __call__(
        self, config: Config, progress: Progress | None = None, shared_model: Any = None
    ) -> "FakeExperiment":
        self.residents.add(id(shared_model))
        return FakeExperiment(self, config)


class FakeExperiment:
    def __init__(self, runs: Runs, config: Config) -> None:
        self.runs, self.config = runs, config
        self.name = f"{config.strategy}/{config.data.scenario}/{config.seed}"

    def run(self, path: Path) -> None:
        self.runs.started.append(self.name)
        self._execute(RunFolder.create(path, dump_config(self.config)))

    def resume(self, folder: RunFolder) -> None:
        self.runs.resumed.append(self.name)
        self._execute(folder)

    def _execute(self, folder: RunFolder) -> None:
        if error := self.runs.fail.pop(self.name, None):
            raise error
        quality = 0.5 if self.config.strategy == "fedrouter" else 0.4
        folder.write_summary(summary(quality, quality + self.config.seed / 100))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    monkeypatch.setattr(harness, "Experiment", fake)
    monkeypatch.setattr("fedrouter.evaluation.shared_model.SharedModel", FakeResident)
    monkeypatch.setattr(harness, "load_splits", lambda *_: None)
    return fake


# -- the grid ----------------------------------------------------------------------------------


def test_the_grid_is_seed_major_and_names_nothing_twice() -> None:
    cells = grid(small("fedrouter,fedavg,fedrouter", "single,dual", "7,3").compare)
    assert [str(cell) for cell in cells] == [
        "fedrouter, single, seed 7",
        "fedavg, single, seed 7",
        "fedrouter, dual, seed 7",
        "fedavg, dual, seed 7",
        "fedrouter, single, seed 3",
        "fedavg, single, seed 3",
        "fedrouter, dual, seed 3",
        "fedavg, dual, seed 3",
    ]
    assert cells[0].run == "cells/fedrouter/single/seed-7"


def test_defaults_are_all_strategies_three_scenarios_and_three_seeds() -> None:
    assert len(grid(config().compare)) == len(strategy_names()) * 3 * 3


def test_a_strategys_overrides_win_over_its_scenarios() -> None:
    settings = config(
        "seed=9",
        "strategy=fedavg",
        "compare.overrides.all=['training.steps=2', 'training.lr=0.1']",
        "compare.overrides.local=['training.lr = 0.2']",
    )
    found = cell_config(settings, Cell("local", "all", 4))
    assert (found.strategy, found.data.scenario, found.seed) == ("local", "all", 4)
    assert (found.training.steps, found.training.lr) == (2, 0.2)
    assert "compare" not in dump_config(found)
    elsewhere = cell_config(settings, Cell("fedrouter", "dual", 4))
    assert elsewhere.training == settings.training


@pytest.mark.parametrize(
    ("sets", "fault"),
    [
        (
            ["compare.overrides.all=['training.steps=0']"],
            "fedrouter in all: training.steps = 0 should be at least 1",
        ),
        (
            ["compare.overrides.ditto=['training.stepz=2']"],
            "ditto in single: unknown key training.stepz; did you mean training.steps?",
        ),
        (
            ["compare.overrides.dual=['data.scenario=all']"],
            "compare.overrides.dual: 'data.scenario=all' cannot differ from cell to cell; "
            "compare.strategies, scenarios and seeds set it",
        ),
        (
            ["compare.overrides.ditto=['model.dtype=bfloat16']"],
            "compare.overrides.ditto: 'model.dtype=bfloat16' cannot differ from cell to cell; "
            "all cells share one base model",
        ),
        (
            ["compare.scenarios=['column']"],
            "fedrouter in column: data.scenario = 'column' needs data.split_column",
        ),
    ],
)
def test_faults_of_cells_are_found_before_anything_runs(sets: list[str], fault: str) -> None:
    settings = config(*sets)
    with pytest.raises(ConfigError) as caught:
        check_cells(settings, grid(settings.compare))
    assert str(caught.value) == fault


def test_all_faults_of_cells_are_reported_at_once() -> None:
    settings = config(
        "compare.overrides.single=['training.steps=0']",
        "compare.overrides.all=['seed=1', 'training.lr=0']",
    )
    with pytest.raises(ConfigError) as caught:
        check_cells(settings, grid(settings.compare))
    assert str(caught.value).count("training.steps = 0") == 1
    assert "'seed=1'" in str(caught.value)
    assert "training.lr = 0 should be greater than 0" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "compare.strategies=['fedruter']",
            "compare.strategies[0] = 'fedruter' should be a strategy; did you mean 'fedrouter'?",
        ),
        (
            "compare.scenarios=['duel']",
            "compare.scenarios[0] = 'duel' should be a scenario; did you mean 'dual'?",
        ),
        (
            "compare.scenarios=['x']",
            "compare.scenarios[0] = 'x' should be one of single, dual, all, dirichlet, column",
        ),
        ("compare.seeds=[-1]", "compare.seeds[0] = -1 should be at least 0"),
        ("compare.seeds=[]", "compare.seeds = [] should have at least 1 item"),
        (
            "compare.overrides.dittto=['a=1']",
            "compare.overrides.dittto = ['a=1'] should be the name of a scenario or strategy; "
            "did you mean 'ditto'?",
        ),
        (
            "compare.overrides.all=['steps']",
            "compare.overrides.all[0] = 'steps' should be KEY=VALUE, such as training.steps=5",
        ),
        ("compare.overrides=3", "compare.overrides = 3 should be a section of keys"),
    ],
)
def test_a_fault_in_the_grid_names_what_is_meant(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(override)
    assert str(caught.value) == message


# -- figures -----------------------------------------------------------------------------------


def test_spread() -> None:
    assert spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "sd": 1.0}
    assert spread([4.0]) == {"mean": 4.0, "sd": None}


def test_paired_difference_by_hand() -> None:
    # differences 1, 2, 3: mean 2, sd 1; t(0.975, 2) = 4.302653; half = 4.302653 / sqrt(3)
    found = paired_difference({1: 2.0, 2: 4.0, 3: 6.0, 9: 0.0}, {1: 1.0, 2: 2.0, 3: 3.0, 8: 5.0})
    assert found is not None
    assert found["n"] == 3
    assert found["mean"] == pytest.approx(2.0)
    assert found["low"] == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found["high"] == pytest.approx(2 + 2.484138, abs=1e-6)


def test_paired_difference_of_equal_differences_is_certain() -> None:
    assert paired_difference({1: 2.0, 2: 2.0}, {1: 1.0, 2: 1.0}) == {
        "mean": 1.0,
        "low": 1.0,
        "high": 1.0,
        "n": 2,
    }


def test_paired_difference_of_one_seed_or_none() -> None:
    assert paired_difference({1: 2.0}, {1: 1.5}) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert paired_difference({1: 2.0}, {2: 1.5}) is None


def combined(
    values: Mapping[tuple[str, str, int], tuple[float | None, float | None]], **more: Any
) -> dict[str, Any]:
    """Results of cells: (strategy, scenario, seed) -> ROUGE-1 local and global."""
    summaries = {Cell(*key): summary(*pair) for key, pair in values.items()}
    return combine("seed = 0\n", summaries, more.get("failures", {}))


def test_a_cell_holds_its_scores_and_costs() -> None:
    results = combined({("local", "dual", 3): (0.5, None)})
    assert results["cells"] == [
        {
            "strategy": "local",
            "scenario": "dual",
            "seed": 3,
            "run": "cells/local/dual/seed-3",
            "local": scores(0.5),
            "global": None,
            "by_task": None,
            "bytes_up": 2_000_000,
            "bytes_down": 3_000_000,
            "seconds": 7.5,  # without loading
            "tokens": 1000,
            "simulated_s": None,
            "evaluations": [{"round": 1, "bytes": 5e6, "local": scores(0.5), "global": None}],
        }
    ]
    assert results["equal_bytes"] == []
    [entry] = results["summary"]
    assert (entry["kind"], entry["seeds"], entry["global"]) == ("personalized", 1, None)
    assert entry["local"]["rougeL"] == {"mean": 0.25, "sd": None}
    assert entry["tokens"] == {"mean": 1000, "sd": None}
    assert entry["vs_fedrouter"] == {"local": None, "global": None}


def test_summary_pairs_by_seed() -> None:
    results = combined(
        {
            ("fedrouter", "dual", 1): (0.5, 0.5),
            ("fedrouter", "dual", 2): (0.7, 0.5),
            ("fedavg", "dual", 1): (0.4, 0.5),
            ("fedavg", "dual", 2): (0.5, 0.5),
        }
    )
    ours, theirs = results["summary"]
    assert (ours["strategy"], ours["kind"], ours["vs_fedrouter"]) == ("fedrouter", "shared", None)
    assert ours["local"]["rouge1"]["mean"] == pytest.approx(0.6)
    assert ours["local"]["rouge1"]["sd"] == pytest.approx(0.2 / 2**0.5)
    assert theirs["vs_fedrouter"]["local"]["mean"] == pytest.approx(-0.15)
    assert theirs["vs_fedrouter"]["local"]["n"] == 2
    assert theirs["vs_fedrouter"]["global"] == {"mean": 0, "low": 0, "high": 0, "n": 2}


def test_derived_figures_by_hand() -> None:
    results = combined(
        {
            ("fedrouter", "dual", 1): (0.60, 0.60),
            ("fedavg", "dual", 1): (0.50, 0.10),  # the best rival in dual/local: +20 %
            ("local", "dual", 1): (0.40, 0.10),
            ("oracle", "dual", 1): (0.75, 0.60),  # a reference, not a rival; gap 20 %
            ("centralized", "dual", 1): (0.90, 0.90),
            ("fedrouter", "single", 1): (0.50, 0.60),
            ("fedavg", "single", 1): (0.50, 0.59),  # not personalized
            ("local", "single", 1): (0.50, 0.20),
            ("ditto", "single", 1): (0.50, 0.25),  # the best personalized: +140 %
            ("oracle", "single", 1): (0.50, 0.60),
        }
    )
    derived = results["derived"]
    assert derived["interference"]["value"] == pytest.approx(20)
    assert derived["interference"]["against"] == "fedavg"
    assert derived["generalization"]["value"] == pytest.approx(140)
    assert derived["generalization"]["against"] == "ditto"
    assert derived["oracle_gap"]["value"] == pytest.approx(20)
    assert (derived["oracle_gap"]["scenario"], derived["oracle_gap"]["scope"]) == ("dual", "local")
    assert [gap["value"] for gap in derived["oracle_gap"]["all"]] == pytest.approx([0, 0, 20, 0])
    assert notes(results) == [
        "interference (dual, local): FedRouter +20.0 % ROUGE-1 against the best other strategy, "
        "fedavg (one seed)",
        "generalization (single, global): FedRouter +140.0 % ROUGE-1 against the best other "
        "personalized strategy, ditto (one seed)",
        "gap to the oracle: at most 20.0 % ROUGE-1 (single local 0.0 %, single global 0.0 %, "
        "dual local 20.0 %, dual global 0.0 %)",
    ]


def test_a_rival_is_compared_over_the_seeds_it_shares() -> None:
    results = combined(
        {
            ("fedrouter", "dual", 1): (0.8, None),
            ("fedrouter", "dual", 2): (0.4, None),
            ("local", "dual", 1): (0.64, None),  # FedRouter +25 % on this easy seed
            ("fedavg", "dual", 1): (0.7, None),
            ("fedavg", "dual", 2): (0.3, None),  # FedRouter +20 % over both
        }
    )
    found = results["derived"]["interference"]
    assert (found["against"], found["seeds"]) == ("fedavg", 2)
    assert found["value"] == pytest.approx(20)


def test_nothing_is_derived_from_nothing() -> None:
    results = combined({("fedrouter", "dual", 1): (0.5, 0.5), ("local", "dual", 1): (0.0, 0.0)})
    derived = results["derived"]
    assert derived["interference"]["value"] is None  # relative to 0
    assert derived["generalization"]["value"] is None
    assert derived["oracle_gap"]["value"] is None
    assert notes(results) == []
    empty = combine("", {}, {})
    assert (empty["cells"], empty["summary"], notes(empty), tables(empty)) == ([], [], [], [])
    assert "# Comparison" in markdown(empty)


def test_unequal_trained_tokens_are_warned_of() -> None:
    summaries = {
        Cell("fedrouter", "dual", 1): summary(0.5, 0.5, tokens=1000),
        Cell("fedavg", "dual", 1): summary(0.5, 0.5, tokens=1050),
        Cell("fedrouter", "dual", 2): summary(0.5, 0.5, tokens=1000),
        Cell("ditto", "dual", 2): summary(0.5, 0.5, tokens=1051),
    }
    results = combine("", summaries, {})
    assert results["warnings"] == [
        "dual, seed 2: trained tokens differ by more than 5%: fedrouter 1,000, ditto 1,051"
    ]
    assert results["warnings"][0] in markdown(results)


def test_tables_rank_by_rouge1_and_put_references_below() -> None:
    results = combined(
        {
            ("fedrouter", "dual", 1): (0.50, 0.60),
            ("fedrouter", "dual", 2): (0.52, 0.60),
            ("local", "dual", 1): (0.60, 0.10),
            ("oracle", "dual", 1): (0.55, 0.65),
        }
    )
    own, everything, costs = tables(results)
    assert own.title == "dual: scores on the clients' own tasks (local)"
    assert own.columns[:2] == ("strategy", "ROUGE-1")
    assert [row[0] for row in own.rows] == ["local", "fedrouter"]
    assert [row[0] for row in own.below] == ["oracle"]
    assert own.rows[1][1] == "0.510 ± 0.014"
    assert own.rows[0][1:] == ("0.600", "0.300", "0.150", "0.400", "+0.100", "1")
    assert own.rows[1][5] == "-"  # FedRouter itself
    assert [row[0] for row in everything.rows] == ["fedrouter", "local"]
    assert costs.rows[0] == (
        "fedrouter",
        "2.00 ± 0.00",
        "3.00 ± 0.00",
        "7.5 ± 0.0",
        "1,000 ± 0",
        "2",
    )
    page = markdown(results)
    assert "| *references* |" in page
    assert page.index("| local | 0.600") < page.index("| *references*") < page.index("| oracle |")


def test_nothing_measured_is_shown_as_such() -> None:
    [own, _, _] = tables(combined({("fedavg", "all", 1): (None, None)}))
    assert own.rows == (("fedavg", "-", "-", "-", "-", "-", "1"),)


# -- the harness -------------------------------------------------------------------------------


class Heard(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_a_comparison_runs_every_cell_once_and_writes_its_results(
    runs: Runs, tmp_path: Path
) -> None:
    heard = Heard()
    results = compare(small(scenarios="single,dual", seeds="1,2"), tmp_path / "c", heard)
    assert runs.started == [
        f"{strategy}/{scenario}/{seed}"
        for seed in (1, 2)
        for scenario in ("single", "dual")
        for strategy in ("fedrouter", "fedavg")
    ]
    assert len(runs.residents) == 1  # one base model for all
    assert heard.lines[0] == "cell 1 of 8: fedrouter, single, seed 1"
    assert re.match(r"cell 8 of 8: fedavg, dual, seed 2, about \d+ s left", heard.lines[7])
    assert json.loads((tmp_path / "c" / "results.json").read_text()) == results
    keys = {"config", "cells", "summary", "equal_bytes", "over_tasks", "derived", "warnings"}
    assert keys | {"failures"} == results.keys()
    with (tmp_path / "c" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[0]["strategy"] == "fedrouter"
    assert (rows[0]["local_rouge1"], rows[0]["bytes_up"], rows[0]["tokens"]) == (
        "0.5",
        "2000000",
        "1000",
    )
    assert "## dual: costs" in (tmp_path / "c" / "results.md").read_text()
    assert RunFolder.open(tmp_path / "c" / results["cells"][0]["run"]).finished


def test_finished_cells_are_not_run_again_and_the_grid_can_grow(runs: Runs, tmp_path: Path) -> None:
    compare(small(), tmp_path / "c")
    runs.started.clear()
    compare(small(), tmp_path / "c")
    assert (runs.started, runs.resumed) == ([], [])
    results = compare(small("local", "dual", "1,2"), tmp_path / "c")
    assert runs.started == ["local/dual/1", "local/dual/2"]
    assert len(results["cells"]) == 4


def test_a_finished_comparison_loads_no_base_model(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(small(), tmp_path / "c")
    monkeypatch.setattr("fedrouter.evaluation.shared_model.SharedModel", None)
    (tmp_path / "c" / "results.md").unlink()
    compare(small(), tmp_path / "c")
    assert (tmp_path / "c" / "results.md").exists()


def test_a_killed_comparison_goes_on_with_the_cell_it_was_in(runs: Runs, tmp_path: Path) -> None:
    runs.fail["fedavg/dual/1"] = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        compare(small(seeds="1,2"), tmp_path / "c")
    assert len(json.loads((tmp_path / "c" / "results.json").read_text())["cells"]) == 1
    heard = Heard()
    results = compare(small(seeds="1,2"), tmp_path / "c", heard)
    assert heard.lines[0] == "cell 2 of 4: fedavg, dual, seed 1"
    assert runs.resumed == ["fedavg/dual/1"]
    assert runs.started.count("fedavg/dual/1") == 1
    assert len(results["cells"]) == 4


def test_a_cell_that_fails_does_not_stop_the_others(runs: Runs, tmp_path: Path) -> None:
    runs.fail["fedrouter/dual/1"] = RunError("the loss is not finite")
    results = compare(small(), tmp_path / "c")
    failure = {"strategy": "fedrouter", "scenario": "dual", "seed": 1}
    assert results["failures"] == [{**failure, "reason": "the loss is not finite"}]
    assert len(results["cells"]) == 1
    assert "failed: fedrouter, dual, seed 1: the loss is not finite" in markdown(results)
    elsewhere = compare(small("local"), tmp_path / "c")
    assert len(elsewhere["failures"]) == 1  # still to be seen, though of another grid
    mended = compare(small(), tmp_path / "c")
    assert mended["failures"] == []
    assert runs.resumed == ["fedrouter/dual/1"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5_400, "1 h 30 min"), (7_260, "2 h 01 min")],
)
def test_time_left_in_words(seconds: float, words: str) -> None:
    assert harness.duration(seconds) == words


def test_another_configuration_is_refused_by_its_first_key(runs: Runs, tmp_path: Path) -> None:
    compare(small(), tmp_path / "c")
    with pytest.raises(RunError) as caught:
        compare(config("adapter.rank=4", "training.lr=0.1"), tmp_path / "c")
    assert str(caught.value) == (
        f"{tmp_path / 'c'} is a comparison with adapter.rank = 8, not = 4; set it back, "
        "or choose another folder with -o"
    )
    with pytest.raises(RunError, match=r"compare\.overrides\.local unset, not = \['training"):
        compare(config("compare.overrides.local=['training.lr=0.1']"), tmp_path / "c")


def test_strategy_scenario_and_seed_of_the_configuration_do_not_matter(
    runs: Runs, tmp_path: Path
) -> None:
    compare(small(), tmp_path / "c")
    settings = small().replace(seed=77, strategy="ditto")
    compare(settings, tmp_path / "c")
    assert "seed" not in (tmp_path / "c" / "comparison.toml").read_text().split("[")[0]


def test_the_same_file_by_another_path_is_the_same_configuration(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    strategies = "compare.strategies=['local']"
    compare(config("data.train=rows.jsonl", strategies), tmp_path / "c")
    compare(config(f"data.train={tmp_path / 'rows.jsonl'}", strategies), tmp_path / "c")


def test_other_folders_are_refused(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="is not empty and not a comparison"):
        compare(small(), tmp_path / "full")
    with pytest.raises(RunError, match="is a file"):
        compare(small(), tmp_path / "full" / "mine.txt")
    assert runs.started == []
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_data_that_cannot_be_read_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl does not exist"):
        compare(config(f"data.train={tmp_path / 'gone.jsonl'}"), tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_another_base_model_is_refused(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(small(), tmp_path / "c")
    monkeypatch.setattr(FakeBase, "fingerprint", "other")
    with pytest.raises(ModelError, match="another base model"):
        compare(small("local"), tmp_path / "c")


def test_folders_of_others_among_the_cells_are_passed_over(runs: Runs, tmp_path: Path) -> None:
    compare(small(), tmp_path / "c")
    for odd in ("fedavg/dual/seed-x", "nobody/dual/seed-1", "fedavg/nowhere/seed-1"):
        (tmp_path / "c" / "cells" / odd).mkdir(parents=True)
    assert len(compare(small(), tmp_path / "c")["cells"]) == 2


# -- the command -------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fedrouter", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        app.main()
    return int(caught.value.code or 0)


def test_the_command_shows_the_tables(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lists = ["--strategies", "fedrouter, fedavg,oracle", "--scenarios", "dual", "--seeds", "1,2"]
    assert command(monkeypatch, *lists, "-o", tmp_path / "c") == 0
    shown = capsys.readouterr()
    assert "dual: scores on all tasks (global)" in shown.out
    assert "interference (dual, local): FedRouter +25.0 % ROUGE-1" in shown.out
    assert "6 cells are finished" in shown.out
    assert "cell 6 of 6: oracle, dual, seed 2" in shown.err


def test_the_folder_has_a_name_that_the_same_command_finds_again(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("[compare]\nstrategies = ['local']\nseeds = [5]\n")
    assert command(monkeypatch, "mine.toml") == 0
    assert (tmp_path / "runs" / "compare-mine" / "cells" / "local" / "all" / "seed-5").is_dir()
    runs.started.clear()
    assert command(monkeypatch, "mine.toml") == 0
    assert runs.started == []


def test_the_command_fails_where_a_cell_failed(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs.fail["local/dual/1"] = RunError("diverged")
    arguments = ["--strategies", "local", "--scenarios", "dual", "--seeds", "1"]
    assert command(monkeypatch, *arguments, "-o", tmp_path / "c") == 1
    assert "failed: local, dual, seed 1: diverged" in capsys.readouterr().out


def test_an_interrupted_command_says_how_to_go_on(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs.fail["local/dual/1"] = KeyboardInterrupt
    arguments = ["--strategies", "local", "--scenarios", "dual", "-o", f"{tmp_path}/my folder"]
    assert command(monkeypatch, *arguments) == 130
    assert (
        "continue with: fedrouter compare --strategies local --scenarios dual "
        f"-o '{tmp_path}/my folder'" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategies", "fedruter"], "did you mean 'fedrouter'?"),
        (["--scenarios", "dual,"], "compare.scenarios[1] = '' should be one of single"),
        (["--seeds", "1,x"], "compare.seeds[1] = 'x' should be a whole number"),
        (["--seeds", "-1"], "compare.seeds[0] = '-1' should be a whole number"),
    ],
)
def test_a_bad_list_is_one_line_and_exit_code_2(
    runs: Runs,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# -- for real ----------------------------------------------------------------------------------


def test_a_real_comparison_survives_a_kill_in_a_cell(
    tiny_folder: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_config(
        None,
        [
            *toy_settings(tiny_folder, toy_data),
            "evaluation.samples=2",
            "compare.strategies=['fedrouter', 'fedavg']",
            "compare.scenarios=['single', 'dual']",
            "compare.seeds=[1]",
            "compare.overrides.single=['training.steps=4']",
        ],
    )
    append, seen = RunFolder.append_metrics, []

    def killed(self: RunFolder, record: Mapping[str, Any]) -> None:
        append(self, record)
        seen.append(self.path)
        if len(seen) == 5:  # in the second round of the second cell
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "append_metrics", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(settings, tmp_path / "c")
    results = compare(settings, tmp_path / "c")
    assert len(seen) == 13  # 4 cells of 3 rounds, and the round that was killed once more
    assert [(c["strategy"], c["scenario"]) for c in results["cells"]] == [
        ("fedrouter", "single"),
        ("fedavg", "single"),
        ("fedrouter", "dual"),
        ("fedavg", "dual"),
    ]
    for cell in results["cells"]:
        assert 0 <= cell["local"]["rouge1"] <= 1
        assert cell["tokens"] > 0
        assert cell["bytes_up"] > 0
        assert sorted(cell["by_task"]) == ["colour", "count", "strip"]
    assert results["warnings"] == []
    monkeypatch.undo()
    undisturbed = compare(settings, tmp_path / "again")
    for one, other in zip(results["cells"], undisturbed["cells"], strict=True):
        assert (one["local"], one["global"], one["tokens"]) == (
            other["local"],
            other["global"],
            other["tokens"],
        )
