"""What trackers are given, and that none of them can end a run."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from support.toys import toy_settings

from fedrouter.config import load_config
from fedrouter.errors import ConfigError, MissingExtraError
from fedrouter.experiment import resume, run
from fedrouter.progress import Progress
from fedrouter.tracking import TrackedRun, Tracker, registry
from fedrouter.tracking.metrics import final_metrics, round_metrics

RECORD = {
    "round": 3,
    "clients": [0, 2],
    "lr": 0.1,
    "loss": 1.5,
    "losses": {"task-00": 1.0, "task-01": 2.0},
    "tokens": 70,
    "tasks": 2,
    "bytes_up": 5,
    "bytes_down": 6,
    "seconds": {"train": 2.5},
    "failures": [{"client": 1, "reason": "gone"}],
}
TABLE = {
    "local": None,
    "global": {"rouge1": 0.5},
    "base": {"rouge1": 0.25},
    "by_task": {"dates": {"global": {"rouge1": 0.75}}},
}


def test_a_round_in_numbers() -> None:
    [(round, metrics)] = round_metrics(RECORD)
    assert round == 3
    assert metrics == {
        "train/lr": 0.1,
        "train/loss": 1.5,
        "train/loss/task-00": 1.0,
        "train/loss/task-01": 2.0,
        "round/clients": 2,
        "round/failures": 1,
        "round/tokens": 70,
        "round/tasks": 2,
        "round/bytes_up": 5,
        "round/bytes_down": 6,
        "round/seconds/train": 2.5,
    }


def test_an_evaluation_belongs_to_the_round_before() -> None:
    record = {**RECORD, "loss": None, "losses": {}, "evaluation": {"round": 2, "metrics": TABLE}}
    (round, scores), (later, metrics) = round_metrics(record)
    assert (round, later) == (2, 3)
    assert scores == {
        "test/global/rouge1": 0.5,
        "test/base/rouge1": 0.25,
        "test/global/rouge1/dates": 0.75,
    }
    assert not [name for name in metrics if "loss" in name]


def test_the_end_in_numbers() -> None:
    metrics = final_metrics(
        {
            "metrics": {**TABLE, "by_task": None},
            "routing": {"accuracy": 1.0, "ari": None, "nmi": None, "confusion": None},
            "bytes": {"up": 1, "down": 2},
            "tokens": 9,
            "seconds": {"total": 3.0},
        }
    )
    assert metrics == {
        "test/global/rouge1": 0.5,
        "test/base/rouge1": 0.25,
        "routing/accuracy": 1.0,
        "total/tokens": 9,
        "total/bytes_up": 1,
        "total/bytes_down": 2,
        "total/seconds/total": 3.0,
    }


class Recorder(Tracker):
    """Remembers its calls; fails where it is told to."""

    calls: list[tuple[str, object]]
    fails: str

    def __init__(self, run: TrackedRun) -> None:
        self._note("open", (run.stored_id(), run.round, run.config["seed"]))

    def log(self, metrics: Mapping[str, float], round: int) -> None:
        self._note("log", (round, metrics.get("train/loss"), "total/tokens" in metrics))

    def close(self, *, finished: bool) -> None:
        self._note("close", finished)

    def _note(self, what: str, value: object) -> None:
        self.calls.append((what, value))
        if what == self.fails:
            raise RuntimeError("the store\nis full")


class Messages(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.killed_in = 0

    def message(self, text: str) -> None:
        self.lines.append(text)

    def round(self, number: int, of: int) -> None:
        if number == self.killed_in:
            raise KeyboardInterrupt


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """A tracker in TensorBoard's place."""
    Recorder.calls, Recorder.fails = [], ""
    own = registry.TrackerEntry(__name__, "Recorder", "json")
    monkeypatch.setattr(registry.TrackerEntry, "open", lambda entry, run: Recorder(run))
    monkeypatch.setitem(registry.TRACKERS, "tensorboard", own)  # type: ignore[arg-type]
    return Recorder


@pytest.fixture
def settings(tiny_folder: Path, toy_data: Path) -> list[str]:
    quick = ["evaluation.samples=1", "training.steps=1", "tracking=['tensorboard']"]
    return [*toy_settings(tiny_folder, toy_data), *quick]


def test_a_resumed_run_is_the_same_tracked_run(
    recorder: type[Recorder], settings: list[str], tmp_path: Path
) -> None:
    progress = Messages()
    progress.killed_in = 3
    with pytest.raises(KeyboardInterrupt):
        run(load_config(None, settings), tmp_path / "run", progress)
    first, recorder.calls = recorder.calls, []
    resume(tmp_path / "run")
    second = recorder.calls
    (id, round, seed), (same, later, _) = first[0][1], second[0][1]  # type: ignore[misc]
    assert (round, seed, later) == (0, 0, 2)
    assert same == id == (tmp_path / "run/tracking/tensorboard/id").read_text()
    assert [call for call, _ in first] == ["open", "log", "log", "close"]
    assert [call for call, _ in second] == ["open", "log", "log", "close"]
    assert [value[0] for call, value in [*first, *second] if call == "log"] == [1, 2, 3, 3]
    assert second[2][1] == (3, None, True)  # the end
    assert (first[-1][1], second[-1][1]) == (False, True)


@pytest.mark.parametrize(("fails", "calls"), [("open", 1), ("log", 2), ("close", 6)])
def test_a_tracker_that_fails_costs_one_warning(
    recorder: type[Recorder], settings: list[str], tmp_path: Path, fails: str, calls: int
) -> None:
    recorder.fails, progress = fails, Messages()
    assert run(load_config(None, settings), tmp_path / "run", progress)["rounds"] == 3
    assert len(recorder.calls) == calls
    told = [line for line in progress.lines if "tensorboard" in line]
    assert told == ["tensorboard tracks this run no further (RuntimeError: the store?is full)"]


def test_a_missing_package_is_named_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = replace(registry.TRACKERS["wandb"], package="no_such_package")
    monkeypatch.setitem(registry.TRACKERS, "wandb", entry)  # type: ignore[arg-type]
    config = load_config(None, ["tracking=['wandb']"])
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrouter\[wandb\]'"):
        run(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    assert "torch.utils.tensorboard" not in sys.modules


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="tracking"):
        load_config(None, ["tracking=['neptune']"])
    assert load_config(None, ["tracking=['mlflow','mlflow']"]).tracking == ("mlflow",)
