import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.toys import save_tiny_base, toy_rows, toy_settings

from fedrouter.config import Config, load_config
from fedrouter.data.rows import Row
from fedrouter.errors import DataError, ModelError, RunError
from fedrouter.experiment import resume, run
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.progress import Progress
from fedrouter.server.participation import participants
from fedrouter.storage.predictions import read_predictions
from fedrouter.storage.run_folder import RunFolder, is_run


def settings(tiny_folder: Path, toy_data: Path, *more: str) -> Config:
    return load_config(None, [*toy_settings(tiny_folder, toy_data), *more])


class Killed(BaseException):
    """Stands for a process that ends without any clean-up of ours."""


class KillAfter(Progress):
    """Ends the run after so many steps of a phase."""

    def __init__(self, phase: str, steps: int) -> None:
        self.wanted, self.left, self.now = phase, steps, ""

    def phase(self, name: str, total: int) -> None:
        self.now = name
        self.advance(0)

    def advance(self, steps: int) -> None:
        if self.now == self.wanted:
            self.left -= steps
            if self.left < 0:
                raise Killed


def saved_tensors(folder: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for path in [*sorted(folder.glob("tasks/*/*.safetensors")), folder / "router.safetensors"]:
        for name, array in sorted(load_file(path).items()):
            yield f"{path.relative_to(folder)}:{name}", array


def assert_same_result(one: Path, other: Path) -> None:
    pairs = zip(saved_tensors(one), saved_tensors(other), strict=True)
    for (name, array), (other_name, other_array) in pairs:
        assert name == other_name
        np.testing.assert_array_equal(array, other_array)


@pytest.fixture
def finished(toy_run: Path) -> tuple[Path, Config]:
    return toy_run, load_config(toy_run / "config.toml")


def test_summary(finished: tuple[Path, Config]) -> None:
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["strategy"] == "fedrouter"
    assert summary["scenario"] == "dual"
    assert (summary["rounds"], summary["clients"], summary["seed"]) == (3, 3, 0)
    assert sum(task["samples"] for task in summary["tasks"]) == 72
    for task in summary["tasks"]:
        assert sum(task["true_tasks"].values()) == task["samples"]
    scores = {"rouge1", "rouge2", "rougeL", "exact_match", "loss"}
    for part in ("local", "global", "base"):
        assert set(summary["metrics"][part]) == scores
    assert set(summary["metrics"]["by_task"]) == {"count", "colour", "strip"}
    assert summary["metrics"]["global"]["loss"] < summary["metrics"]["base"]["loss"]
    assert set(summary["routing"]) == {"accuracy", "ari", "nmi", "train_purity", "confusion"}
    assert summary["routing"]["ari"] > 0.9
    assert summary["bytes"]["up"] > 0
    phases = {"load", "profile", "train", "aggregate", "evaluate", "total"}
    assert set(summary["seconds"]) == phases
    assert summary["peak_rss_mb"] > 0


def test_bytes_are_those_of_the_adapters(finished: tuple[Path, Config]) -> None:
    folder, _ = finished
    numbers = sum(
        array.size for array in load_file(next(folder.glob("tasks/*/*.safetensors"))).values()
    )
    summary = json.loads((folder / "summary.json").read_text())
    sent = 3 * 3 * 2 * numbers * 2  # rounds, clients, tasks of each, float16
    third = 3 * numbers * 2  # round 3 also evaluates, with the task that a client does not hold
    # In float32, to each of three clients: the standardization, the three centroids of the only
    # start of K-means, then the geometry, which has half a symmetric space from the second
    # assignment on.
    standardization, centroids, space, scatter = 2 * 32, 3 * 32, 32 * 33 // 2, 32 * 33 // 2
    start, lloyd = standardization, standardization + centroids  # nothing moves
    assignments, evaluation = 4, 1
    geometries = (assignments + evaluation) * (standardization + centroids + space) - space
    down = 3 * 4 * (start + lloyd + geometries)
    first = sent // 3  # every client has the initial adapter, which does not travel
    assert summary["bytes"]["down"] == sent - first + third + down
    # From each: mean and variances, two centroids of its own, those nearest to its samples, and
    # with each assignment two centroids and a scatter.
    moments, start, lloyd = 2 * 32, 2 * 32, 2 * 32
    up = 3 * 4 * (moments + start + lloyd + assignments * (2 * 32 + scatter))
    assert summary["bytes"]["up"] == sent + up


def test_metrics_have_a_line_for_each_round(finished: tuple[Path, Config]) -> None:
    folder, _ = finished
    records = RunFolder.open(folder).read_metrics()
    assert [record["round"] for record in records] == [1, 2, 3]
    assert [record["clients"] for record in records] == [[0, 1, 2]] * 3
    assert records[0]["lr"] == pytest.approx(0.01)
    # What round 2 ended with is evaluated at the start of round 3, by the same message.
    assert ["evaluation" in record for record in records] == [False, False, True]
    assert records[2]["evaluation"]["round"] == 2
    assert records[2]["evaluation"]["metrics"]["global"]["loss"] > 0


def test_a_run_folder_holds_no_sample(finished: tuple[Path, Config]) -> None:
    folder, _ = finished
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("predictions.jsonl", "report.html"):
            assert b"WHICH COLOUR" not in path.read_bytes()


def test_a_run_is_repeatable(finished: tuple[Path, Config], tmp_path: Path) -> None:
    folder, config = finished
    run(config, tmp_path / "again")
    assert_same_result(folder, tmp_path / "again")


def test_the_degree_of_fusion_changes_nothing(
    finished: tuple[Path, Config], tmp_path: Path
) -> None:
    folder, config = finished
    one_by_one = config.engine.replace(fuse=1)
    run(config.replace(engine=one_by_one), tmp_path / "unfused")
    pairs = zip(saved_tensors(folder), saved_tensors(tmp_path / "unfused"), strict=True)
    for (name, array), (_, other) in pairs:
        # Rounding to float16 on the wire turns differences in the last float32 bit into its own.
        np.testing.assert_allclose(array, other, atol=1e-3, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    ("phase", "steps"), [("profile", 1), ("train", 0), ("train", 4), ("evaluate", 1)]
)
def test_a_killed_run_resumes_bit_for_bit(
    finished: tuple[Path, Config], tmp_path: Path, phase: str, steps: int
) -> None:
    folder, config = finished
    killed = tmp_path / "killed"
    with pytest.raises(Killed):
        run(config, killed, progress=KillAfter(phase, steps))
    summary = resume(killed)
    assert_same_result(folder, killed)
    reference = json.loads((folder / "summary.json").read_text())
    for key in ("tasks", "metrics", "routing", "bytes"):
        assert summary[key] == reference[key]
    assert [r["round"] for r in RunFolder.open(killed).read_metrics()] == [1, 2, 3]


def test_resuming_a_finished_run_gives_its_summary(finished: tuple[Path, Config]) -> None:
    folder, _ = finished
    assert resume(folder) == json.loads((folder / "summary.json").read_text())


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    finished: tuple[Path, Config], tmp_path: Path
) -> None:
    folder, config = finished
    with pytest.raises(Killed):
        run(config, tmp_path / "run", progress=KillAfter("train", 7))  # in round 3
    (tmp_path / "run/checkpoints/round-0002/state.safetensors").write_bytes(b"damaged")

    class Listener(Progress):
        heard = ""

        def message(self, text: str) -> None:
            self.heard += text

    listener = Listener()
    resume(tmp_path / "run", listener)
    assert "round-0002 is damaged" in listener.heard
    assert_same_result(folder, tmp_path / "run")


def test_changed_data_and_another_base_model_are_refused(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    base = save_tiny_base(tmp_path / "base", seed=0)
    config = settings(base, toy_data)
    with pytest.raises(Killed):
        run(config, tmp_path / "run", progress=KillAfter("train", 4))
    save_tiny_base(base, seed=1)
    with pytest.raises(ModelError, match="another base model"):
        resume(tmp_path / "run")
    save_tiny_base(base, seed=0)
    with (toy_data / "train.jsonl").open("a") as file:
        file.write('{"instruction": "new", "response": "new", "task": "count"}\n')
    with pytest.raises(DataError, match="have changed"):
        resume(tmp_path / "run")


def test_an_existing_run_is_not_touched(finished: tuple[Path, Config]) -> None:
    folder, config = finished
    before = (folder / "summary.json").read_bytes()
    with pytest.raises(RunError, match="fedrouter resume"):
        run(config, folder)
    assert (folder / "summary.json").read_bytes() == before


def test_faults_are_found_before_anything_is_written(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError):
        run(settings(tiny_folder, toy_data, "federation.clients=100"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_responses_that_do_not_fit_are_found_before_anything_is_written(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    with (toy_data / "test.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "x", "response": "y" * 200, "task": "count"}) + "\n")
    with pytest.raises(DataError, match=r"test row 19: .*model\.max_length = 96"):
        run(settings(tiny_folder, toy_data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_at_any_write_leaves_a_run_that_resumes(
    finished: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = finished
    target = tmp_path / "run"
    sync = os.fsync
    left = 0  # writes until the disk is full

    def limited(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", limited)
    failures = 0
    for attempt in range(40):
        left = 3 * attempt + 2
        try:
            resume(target) if is_run(target) else run(config, target)
            break
        except RunError as error:
            assert "disk is full" in str(error)
            failures += 1
    assert failures > 5
    assert_same_result(folder, target)


def test_partial_participation(tiny_folder: Path, toy_data: Path, tmp_path: Path) -> None:
    config = settings(tiny_folder, toy_data, "federation.fraction=0.34", "federation.rounds=6")
    run(config, tmp_path / "run")
    taking_part = [r["clients"] for r in RunFolder.open(tmp_path / "run").read_metrics()]
    assert all(len(clients) == 1 for clients in taking_part)
    assert len({clients[0] for clients in taking_part}) > 1
    assert taking_part == [participants(config, round, range(3)) for round in range(1, 7)]


def test_rows_without_task_names(tiny_folder: Path, tmp_path: Path) -> None:
    for name, rows in (("train", toy_rows(8)), ("test", toy_rows(2, start=50))):
        unnamed = [Row(row.instruction, row.response) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(
                json.dumps({"instruction": row.instruction, "response": row.response}) + "\n"
                for row in unnamed
            )
        )
    found = ("clustering.n_local=auto", "clustering.n_global=auto")
    summary = run(settings(tiny_folder, tmp_path, *found), tmp_path / "run")
    assert summary["scenario"] == "all"
    assert 1 <= len(summary["tasks"]) <= 6
    assert set(summary["routing"].values()) == {None}
    assert summary["metrics"]["by_task"] is None
    assert summary["metrics"]["local"]["loss"] > 0


def test_without_evaluation(tiny_folder: Path, toy_data: Path, tmp_path: Path) -> None:
    summary = run(settings(tiny_folder, toy_data, "evaluation.enabled=false"), tmp_path / "run")
    assert set(summary["metrics"].values()) == {None}
    assert summary["routing"]["accuracy"] == 1


def test_a_client_with_fewer_samples_than_a_batch(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    sets = ("federation.clients=20", "training.batch_size=16", "federation.rounds=1")
    summary = run(settings(tiny_folder, toy_data, *sets), tmp_path / "run")
    assert sum(task["samples"] for task in summary["tasks"]) == 72


def test_fedavg_has_one_adapter_and_no_tasks(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    summary = run(settings(tiny_folder, toy_data, "strategy=fedavg"), tmp_path / "run")
    assert summary["tasks"] == []
    assert [path.name for path in (tmp_path / "run/tasks").iterdir()] == ["global"]
    [answer] = RoutedModel.load(tmp_path / "run").generate(["7 8 9"])
    assert (answer.task, answer.confidence) == ("global", 1.0)


@pytest.mark.slow
def test_kill_9(finished: tuple[Path, Config], tmp_path: Path) -> None:
    """A real process, killed again and again at whatever it is doing, ends like any other."""
    folder, _ = finished
    target = tmp_path / "run"
    target.mkdir()
    code = "import sys, pathlib, fedrouter; fedrouter.resume(pathlib.Path(sys.argv[1]))"
    target.joinpath("config.toml").write_bytes((folder / "config.toml").read_bytes())

    def checkpoints() -> set[str]:
        return {path.name for path in target.glob("checkpoints/round-*")}

    kills = 0
    while not RunFolder.open(target).finished:
        had = checkpoints()
        process = subprocess.Popen([sys.executable, "-c", code, str(target)])
        while checkpoints() == had and process.poll() is None:  # it gets one round further
            time.sleep(0.02)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 3
    assert_same_result(folder, target)


@pytest.mark.parametrize("space", ["standardized", "whitened"])
def test_another_space_from_profile_to_prompt(
    space: str, tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    config = settings(tiny_folder, toy_data, f"clustering.space={space}", "evaluation.every=1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = run(config, whole)
    assert summary["routing"]["accuracy"] == 1.0
    assert summary["routing"]["ari"] > 0.9
    assert ("space" in load_file(whole / "router.safetensors")) == (space == "whitened")
    with pytest.raises(Killed):
        run(config, killed, KillAfter("train", 4))
    resume(killed)
    assert_same_result(whole, killed)
    routes = RoutedModel.load(whole).route(["[{x=3}];;", "WHICH COLOUR: RED 3"])
    names = {
        task["id"]: max(task["true_tasks"], key=task["true_tasks"].get) for task in summary["tasks"]
    }
    assert [names[route.task] for route in routes] == ["strip", "colour"]
    profile = 3 * 2 * 32 * 4  # mean and variances of 32 dimensions before round 1
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    assert summary["bytes"]["up"] - sum(json.loads(x)["bytes_up"] for x in lines) == profile


def test_predictions_are_the_scored_answers_of_all_test_rows(
    finished: tuple[Path, Config], toy_data: Path
) -> None:
    folder, _ = finished
    lines = list(read_predictions(folder))
    tests = [json.loads(line) for line in (toy_data / "test.jsonl").read_text().splitlines()]
    assert [(one["prompt"], one["expected"], one["true_task"]) for one in lines] == [
        (row["instruction"], row["response"], row["task"]) for row in tests
    ]
    assert all(one["clients"] == [0, 1, 2] for one in lines)
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]["global"]
    for score, value in metrics.items():
        assert np.mean([one["scores"][score] for one in lines]) == pytest.approx(value)
    model = RoutedModel.load(folder)
    for one, answer in zip(lines, model.generate([one["prompt"] for one in lines]), strict=True):
        assert (one["answer"], one["task"]) == (answer.text, answer.task)
        assert one["confidence"] == pytest.approx(answer.confidence)


def test_clients_with_adapters_of_their_own_have_answers_of_their_own(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    sets = ["strategy=local", "training.lr=0.02", "evaluation.samples=2"]
    run(settings(tiny_folder, toy_data, *sets), tmp_path / "run")
    lines = list(read_predictions(tmp_path / "run"))
    given = sorted((one["prompt"], client) for one in lines for client in one["clients"])
    assert len(given) == len(set(given)) == 6 * 3
    assert len(lines) > 6
    assert all(one["task"] is None and one["adapters"] is None for one in lines)


def test_no_texts_are_stored_where_predictions_are_off(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    sets = ["evaluation.predictions=false", "evaluation.samples=1"]
    run(settings(tiny_folder, toy_data, *sets), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("predictions.jsonl"))
