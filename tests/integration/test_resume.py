"""A run that is killed and resumed is the undisturbed run, bit for bit, in mode `auto` too.

The run merges tasks, reassigns samples, and has a client that comes late with a task of its own.
"""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.toys import toy_settings

from fedrouter.config import Config, load_config
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.experiment import resume, run
from fedrouter.progress import Progress

LATE = 2  # the client that comes when three rounds are done
MEASURED = {"seconds", "peak_rss_mb"}  # what is not the same in any two runs


class Killed(BaseException):
    """Stands for a process that ends without any clean-up of ours."""


class KillAfter(Progress):
    """Ends the run after a number of reports of progress; notes in which phase."""

    def __init__(self, reports: int, where: list[str]) -> None:
        self.left, self.where, self.now = reports, where, ""

    def phase(self, name: str, total: int) -> None:
        self.now = name
        self._count()

    def advance(self, steps: int) -> None:
        if steps:
            self._count()

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.where.append(self.now)
            raise Killed


def write_rows(folder: Path) -> Path:
    """Three tasks that are far apart, so that the late client's one is a new one."""
    rows = [
        row
        for i in range(24)
        for row in (
            {"instruction": f"{i} {i + 1} {i + 2}", "response": str(i + 3), "task": "count"},
            {"instruction": f"[{{x={i}}}];;", "response": f"x={i}", "task": "strip"},
            {"instruction": "~" * 30 + chr(33 + i % 5) * 8, "response": "no", "task": "wave"},
        )
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "train.jsonl").write_text("".join(lines))
    (folder / "test.jsonl").write_text("".join(lines[:9]))
    return folder


@pytest.fixture(scope="module")
def config(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    data = write_rows(tmp_path_factory.mktemp("data"))
    sets = [
        *toy_settings(tiny_folder, data),
        "federation.rounds=6",
        "federation.clients=3",
        "federation.transport=int4",  # with error feedback
        "federation.error_feedback=true",
        "data.scenario=single",
        "clustering.n_local=auto",
        "clustering.n_global=auto",
        "clustering.space=whitened",
        "training.steps=4",
        "evaluation.every=1",
    ]
    return load_config(None, sets)


@pytest.fixture(autouse=True)
def late_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is online only when the run has three rounds."""

    def online(engine: InProcessEngine) -> list[int]:
        some = next(iter(engine.clients.values()))
        metrics = some.store.path.parent.parent / "metrics.jsonl"
        rounds = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        return [id for id in sorted(engine.clients) if id != LATE or rounds >= 3]

    monkeypatch.setattr(InProcessEngine, "online", online)


@pytest.fixture
def undisturbed(config: Config, tmp_path: Path) -> Path:
    run(config, tmp_path / "undisturbed")
    return tmp_path / "undisturbed"


def contents(folder: Path) -> Iterator[tuple[str, Any]]:
    """Everything that a run leaves, but for what it measured."""
    last = max(folder.glob("checkpoints/round-*"))
    for path in [
        *folder.glob("tasks/**/*.safetensors"),
        *folder.glob("clients/**/*.safetensors"),
        folder / "router.safetensors",
        last / "state.safetensors",
    ]:
        for name, array in load_file(path).items():
            yield f"{path.relative_to(folder)} {name}", array
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        yield f"metrics of round {record['round']}", _without(record)
    yield "summary", _without(json.loads((folder / "summary.json").read_text()))
    yield "router", json.loads((folder / "router.json").read_text())


def _without(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in MEASURED}


def assert_same(one: Path, other: Path) -> None:
    expected, found = dict(contents(one)), dict(contents(other))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert value.tobytes() == found[name].tobytes(), name
        else:
            assert value == found[name], name


def test_the_run_has_all_that_a_resume_could_get_wrong(undisturbed: Path) -> None:
    history = json.loads((undisturbed / "summary.json").read_text())["history"]
    assert {"merged", "created"} <= {event["kind"] for event in history}


def test_a_run_that_is_killed_again_and_again_is_the_undisturbed_one(
    config: Config, undisturbed: Path, tmp_path: Path
) -> None:
    """Every process ends after one report more than the one before."""
    folder, where = tmp_path / "killed", list[str]()
    for reports in count(1):
        progress = KillAfter(reports, where)
        try:
            if (folder / "config.toml").exists():
                resume(folder, progress)
            else:
                run(config, folder, progress=progress)
        except Killed:
            continue
        break
    assert {"refine", "train"} <= set(where)
    assert_same(undisturbed, folder)


def test_a_run_whose_last_checkpoint_is_damaged_falls_back_to_the_same_end(
    config: Config, undisturbed: Path, tmp_path: Path
) -> None:
    """Round 2 and the exchanges after it are repeated by clients that remember more."""
    folder, last = tmp_path / "killed", tmp_path / "killed/checkpoints/round-0002"

    class KillAfterExchange(Progress):
        def phase(self, name: str, total: int) -> None:
            if name == "train" and last.exists():
                raise Killed

    with pytest.raises(Killed):
        run(config, folder, progress=KillAfterExchange())
    (last / "state.safetensors").write_bytes(b"damaged")
    resume(folder)
    assert_same(undisturbed, folder)


def test_late_replies_outlive_a_kill_in_each_round(config: Config, tmp_path: Path) -> None:
    devices = [{"share": 0.67, "speed": 500.0}, {"share": 0.33, "speed": 200.0, "absent": 0.1}]
    settings = config.federation.replace(deadline_s=1.0, devices=devices, equal_time=True)
    config = config.replace(federation=settings)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    run(config, whole)
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert any(record["late"] for record in records)
    assert any(record["late_replies"] for record in records), records

    class KillInRound(Progress):
        def round(self, number: int, of: int) -> None:
            if number not in seen:
                seen.add(number)
                raise Killed

    seen = set[int]()
    for _ in range(6):
        with pytest.raises(Killed):
            if (folder / "config.toml").exists():
                resume(folder, KillInRound())
            else:
                run(config, folder, progress=KillInRound())
    resume(folder, KillInRound())
    assert_same(whole, folder)


@pytest.mark.slow
def test_a_kill_anywhere(config: Config, undisturbed: Path, tmp_path: Path) -> None:
    for reports in count():
        folder, where = tmp_path / f"killed-{reports}", list[str]()
        try:
            run(config, folder, progress=KillAfter(reports, where))
        except Killed:
            resume(folder)
            assert_same(undisturbed, folder)
            continue
        break
    assert reports > 30
