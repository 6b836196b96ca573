"""The built-in base model, the built-in tasks and the demo, as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import SHARED

from fedrouter import RoutedModel, load_config, run
from fedrouter.storage.run_folder import RunFolder


def test_one_round_on_the_built_in_tasks_and_base_model(tmp_path: Path) -> None:
    sets = [
        "data.builtin_train=24",
        "data.builtin_test=4",
        "clustering.n_local=2",
        "clustering.n_global=8",
        "federation.rounds=1",
        "training.steps=1",
        "training.batch_size=4",
        "evaluation.max_new_tokens=2",
    ]
    summary = run(load_config(None, sets), tmp_path / "run")
    assert len(summary["tasks"]) == 8
    assert summary["routing"]["accuracy"] > 0.9
    model = RoutedModel.load(tmp_path / "run")
    [route] = model.route(["The letter from Mr Yates arrived on 3 June 2021."])
    assert model.majority[route.task] == "dates"


@pytest.mark.slow
def test_the_demo_tells_its_story_and_replaces_itself(tmp_path: Path) -> None:
    def demo() -> str:
        command = [sys.executable, "-m", "fedrouter", "demo", "-o", str(tmp_path / "demo")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    out = demo()
    assert out.count("prompt:") == out.count("answer:") == 3
    ours, averaged = (
        RunFolder.open(tmp_path / name).read_summary()["metrics"]
        for name in ("demo", "demo-fedavg")
    )
    assert ours["global"]["rouge1"] > averaged["global"]["rouge1"] > ours["base"]["rouge1"]
    (tmp_path / "demo" / "metrics.jsonl").unlink()
    (tmp_path / "demo" / "summary.json").write_text("{}")
    demo()
    assert RunFolder.open(tmp_path / "demo").read_summary()["metrics"] == ours


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_real_tasks(tmp_path: Path) -> None:
    sets = [
        f"data.train={SHARED}/data/flan8/train.jsonl",
        f"data.test={SHARED}/data/flan8/test.jsonl",
        "federation.rounds=1",
        "training.steps=2",
        "evaluation.samples=5",
        "evaluation.max_new_tokens=4",
    ]
    summary = run(load_config(None, sets), tmp_path / "run")
    assert len(summary["metrics"]["by_task"]) == 8
    assert summary["routing"]["accuracy"] > 0.7
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary
