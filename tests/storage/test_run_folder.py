import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrouter.config import Config, dump_config, load_config
from fedrouter.errors import CheckpointError, RunError
from fedrouter.storage import atomic, run_folder
from fedrouter.storage.run_folder import RunFolder, is_run, new_run_path

SUMMARY = {
    "strategy": "fedrouter",
    "scenario": "dual",
    "seed": 0,
    "rounds": 1,
    "clients": 2,
    "base_fingerprint": "base",
    "tasks": [],
    "history": [],
    "metrics": dict.fromkeys(("local", "global", "base", "by_task")),
    "routing": dict.fromkeys(("accuracy", "ari", "nmi", "train_purity", "confusion")),
    "bytes": {"up": 1, "down": 1},
    "tokens": 1,
    "seconds": {"total": 1.0},
}
META = {"tasks": ["task-00"], "spread": 0.1 + 0.2, "inner": {"2": [1], "10": None}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "a", "seed = 1\n")


def arrays(value: float) -> dict[str, np.ndarray[Any, Any]]:
    return {"a": np.full((2, 3), value, np.float32), "n": np.arange(4)[::2]}


def save(run: RunFolder, *rounds: int) -> None:
    for round in rounds:
        run.save_checkpoint(round, arrays(round), META)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)


# --- the folder ---


def test_a_created_run_opens_and_its_configuration_loads(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "x" / "y", dump_config(Config(seed=5)))
    run = RunFolder.open(tmp_path / "x" / "y")
    assert load_config(run.path / "config.toml") == Config(seed=5)
    assert not run.finished
    assert run.latest_checkpoint() == (None, [])
    assert run.read_metrics() == []


def test_an_existing_run_is_kept_unless_replaced(run: RunFolder) -> None:
    save(run, 1)
    run.write_summary({"old": True})
    with pytest.raises(RunError, match=f"holds a run already.*-o.*fedrouter resume {run.path}"):
        RunFolder.create(run.path, "")
    assert run.finished

    with pytest.raises(RunError, match="holds a run already"):
        RunFolder.create(run.path, "", label="demo")  # it is not an earlier demo
    assert run.finished


def test_a_run_replaces_one_of_the_same_label(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "seed = 1\n", label="demo")
    save(run, 1)
    fresh = RunFolder.create(run.path, "seed = 2\n", label="demo")
    assert names(fresh.path) == [".lock", "config.toml"]
    with fresh.locked(), pytest.raises(RunError, match="is in use by process"):
        RunFolder.create(run.path, "", label="demo")
    assert load_config(fresh.path / "config.toml").seed == 2


@pytest.mark.parametrize("name", ["notes.txt", "config.toml"])
def test_only_a_run_is_ever_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("seed = 3\n")
    with pytest.raises(RunError, match="not empty and not a run"):
        RunFolder.create(tmp_path, "", label="demo")
    assert names(tmp_path) == [name]


def test_a_replacement_that_is_killed_half_way_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run", "", label="demo")
    save(run, 1)

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "_remove_entry", killed)
        with pytest.raises(KeyboardInterrupt):
            RunFolder.create(run.path, "", label="demo")
    assert is_run(run.path)
    RunFolder.create(run.path, "", label="demo")


def test_a_creation_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / ".config.toml.123.tmp").write_text("see")
    RunFolder.create(tmp_path, "seed = 1\n")


def test_replacing_follows_no_links(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "", label="demo")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (run.path / "link").symlink_to(outside)
    RunFolder.create(run.path, "", label="demo")
    assert names(outside) == ["file"]


def test_what_is_no_run_is_not_opened(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"does not exist; runs near it: {run.path}"):
        RunFolder.open(run.path.parent / "b")
    with pytest.raises(RunError, match=f"not a run folder; runs near it: {run.path}"):
        RunFolder.open(run.path.parent)
    with pytest.raises(RunError, match="does not exist; start one with: fedrouter run"):
        RunFolder.open(tmp_path / "elsewhere" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(tmp_path / "file", "", label="demo")


def test_default_names_do_not_collide(tmp_path: Path) -> None:
    paths = [new_run_path("fedavg", 3, tmp_path / "runs")]
    for _ in range(3):
        RunFolder.create(paths[-1], "")
        paths.append(new_run_path("fedavg", 3, tmp_path / "runs"))
    assert len(set(paths)) == 4
    assert paths[0].name.startswith("fedavg-3-2")
    assert names(tmp_path / "runs") == sorted(path.name for path in paths[:3])


# --- checkpoints ---


def test_a_checkpoint_comes_back_exactly_and_two_are_kept(run: RunFolder) -> None:
    save(run, 0, 1, 2, 10)
    assert names(run.path / "checkpoints") == ["round-0002", "round-0010"]
    checkpoint, warnings = RunFolder.open(run.path).latest_checkpoint()
    assert checkpoint is not None
    assert warnings == []
    assert (checkpoint.round, checkpoint.meta) == (10, META)
    assert checkpoint.arrays["a"].dtype == np.float32
    np.testing.assert_array_equal(checkpoint.arrays["a"], arrays(10)["a"])
    np.testing.assert_array_equal(checkpoint.arrays["n"], [0, 2])


def truncate(folder: Path) -> None:
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    path = folder / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def edit_meta(folder: Path) -> None:
    path = folder / "state.json"
    path.write_text(path.read_text().replace("task-00", "task-01"))


def empty_json(folder: Path) -> None:
    (folder / "state.json").write_text("")


def other_json(folder: Path) -> None:
    (folder / "state.json").write_text("[]")


def lose_file(folder: Path) -> None:
    (folder / "state.safetensors").unlink()


DAMAGES = [truncate, flip, edit_meta, empty_json, other_json, lose_file]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run: RunFolder, damage: Any) -> None:
    save(run, 3, 4)
    damage(run.path / "checkpoints" / "round-0004")
    checkpoint, [warning] = run.latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.round == 3
    assert "round-0004 is damaged" in warning
    save(run, 4)  # the round is done again
    assert run.latest_checkpoint()[1] == []


def test_no_undamaged_checkpoint_is_an_error(run: RunFolder) -> None:
    save(run, 3, 4)
    for folder in (run.path / "checkpoints").iterdir():
        flip(folder)
    with pytest.raises(CheckpointError, match=r"all checkpoints .*fedrouter run .*config\.toml"):
        run.latest_checkpoint()


def test_a_checkpoint_of_another_format_is_refused_not_skipped(run: RunFolder) -> None:
    save(run, 3)
    path = run.path / "checkpoints" / "round-0003" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(CheckpointError, match="has checkpoint format 9"):
        run.latest_checkpoint()


def test_a_kill_while_saving_leaves_only_what_is_ignored_and_cleaned(run: RunFolder) -> None:
    save(run, 1)
    unfinished = run.path / "checkpoints" / ".round-0002.123.tmp"
    unfinished.mkdir()
    (unfinished / "state.safetensors").write_bytes(b"half")
    checkpoint, warnings = run.latest_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.round, warnings) == (1, [])
    save(run, 2)
    assert names(run.path / "checkpoints") == ["round-0001", "round-0002"]


# --- metrics and summary ---


def test_metrics_survive_a_torn_line_and_drop_later_rounds(run: RunFolder) -> None:
    for round in (1, 2, 3):
        run.append_metrics({"round": round, "loss": 0.1 * round, "who": "ü"})
    path = run.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"round": 4, "lo')
    assert [record["round"] for record in run.read_metrics()] == [1, 2, 3]

    run.truncate_metrics(2)
    run.append_metrics({"round": 3, "loss": 7.0})
    assert [record["loss"] for record in run.read_metrics()] == [0.1, 0.2, 7.0]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', "3"])
def test_a_damaged_line_is_named(run: RunFolder, line: str) -> None:
    run.append_metrics({"round": 1})
    path = run.path / "metrics.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2: not a record"):
        run.read_metrics()


def test_the_summary_finishes_a_run(run: RunFolder) -> None:
    with pytest.raises(RunError, match=f"not finished; .*: fedrouter resume {run.path}"):
        run.read_summary()
    run.write_summary(SUMMARY)
    assert run.finished
    assert run.read_summary() == SUMMARY
    deep = "[" * 100_000
    odd = [json.dumps({**SUMMARY, key: "x"}) for key in ("tasks", "metrics", "seed", "seconds")]
    for damaged in ("{", "[]", "null", '{"tasks": []}', deep, *odd):
        (run.path / "summary.json").write_text(damaged)
        with pytest.raises(RunError, match=r"summary\.json is damaged"):
            run.read_summary()


def test_what_kills_left_behind_is_removed(run: RunFolder) -> None:
    (run.path / "tasks").mkdir()
    (run.path / "tasks" / ".task-00.12.tmp").mkdir()
    (run.path / "tasks" / ".task-00.12.tmp" / "file").touch()
    (run.path / "tasks" / ".task-00.12.tmp" / ".file.12.tmp").touch()  # goes with its folder
    (run.path / ".summary.json.12.tmp").touch()
    save(run, 1, 2)
    (run.path / "checkpoints" / "round-0000").mkdir()  # whose removal was cut short
    run.remove_leftovers()
    assert names(run.path) == ["checkpoints", "config.toml", "tasks"]
    assert names(run.path / "checkpoints") == ["round-0001", "round-0002"]
    assert names(run.path / "tasks") == []


def test_a_run_is_its_owners_alone(run: RunFolder) -> None:
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_a_damaged_state_falls_back_to_the_checkpoint_before(run: RunFolder) -> None:
    save(run, 1, 2)
    state = run.path / "checkpoints" / "round-0002" / "state.json"
    for damaged in ("[" * 100_000, "[]", '{"format": 2, "round": {}, "meta": 1}'):
        state.write_text(damaged)
        checkpoint, warnings = run.latest_checkpoint()
        assert checkpoint is not None
        assert (checkpoint.round, len(warnings)) == (1, 1)


# --- a folder from elsewhere ---


def test_links_within_a_run_are_followed(run: RunFolder, tmp_path: Path) -> None:
    (run.path / "tasks").mkdir()
    (run.path / "tasks" / "again").symlink_to(run.path / "tasks")
    (tmp_path / "link").symlink_to(run.path)
    assert RunFolder.open(tmp_path / "link").path == tmp_path / "link"


@pytest.mark.parametrize(
    ("name", "make", "fault"),
    [
        ("metrics.jsonl", lambda path: path.symlink_to("/etc/passwd"), "is a link out of"),
        ("tasks", lambda path: path.symlink_to("/etc"), "is a link out of"),
        ("tasks", lambda path: path.symlink_to("../.."), "is a link out of"),
        ("router.json", lambda path: path.symlink_to("router.json"), "is a link to nothing"),
        ("summary.json", os.mkfifo, "is no file or folder"),
        ("summary.json", lambda path: sparse(path, 2**30), "more than 268435456"),
        ("router.safetensors", lambda path: sparse(path, 2**34), "of which 0 are stored"),
    ],
)
def test_what_no_run_writes_is_refused(
    run: RunFolder, name: str, make: Callable[[Path], object], fault: str
) -> None:
    make(run.path / name)
    with pytest.raises(RunError, match=f"{name} .*{fault}.*; remove it, or use another run folder"):
        RunFolder.open(run.path)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


# --- one process at a time ---


def test_the_second_process_is_told_who_holds_the_folder(run: RunFolder) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from fedrouter.storage.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked():\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        message = f"is in use by process {other.pid} on {socket.gethostname()}; wait until it ends"
        with pytest.raises(RunError, match=message), run.locked():
            pass
        other.kill()  # which leaves its files
    with run.locked():
        assert (run.path / ".lock.json").exists()
    assert not (run.path / ".lock.json").exists()


# --- a full disk ---


@pytest.mark.parametrize(
    "write",
    [
        lambda run: save(run, 2),
        lambda run: save(run, 1),
        lambda run: run.append_metrics({"round": 2}),
        lambda run: run.truncate_metrics(1),
        lambda run: run.write_summary({}),
    ],
    ids=["checkpoint", "checkpoint again", "append", "truncate", "summary"],
)
def test_a_full_disk_says_how_to_go_on_and_loses_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    save(run, 1)
    run.append_metrics({"round": 1})
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(RunError, match=f"disk is full.*free.*fedrouter resume {run.path}"):
            write(run)
    again = RunFolder.open(run.path)
    checkpoint, warnings = again.latest_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.round, warnings) == (1, [])
    assert names(run.path / "checkpoints") == ["round-0001"]
    again.truncate_metrics(checkpoint.round)
    assert again.read_metrics() == [{"round": 1}]
    assert not again.finished


def test_a_full_disk_at_the_start_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(RunError, match=r"disk is full.*start again"):
            RunFolder.create(tmp_path / "a", "")
    assert not is_run(tmp_path / "a")
    RunFolder.create(tmp_path / "a", "")


def test_other_write_errors_name_the_folder(run: RunFolder) -> None:
    (run.path / "summary.json").mkdir()
    with pytest.raises(RunError, match=f"{run.path} cannot be written: Is a directory"):
        run.write_summary({})


def test_the_run_of_a_deployment_names_the_operators_command(tmp_path: Path) -> None:
    path = tmp_path / "server" / "runs" / "first"
    run = RunFolder.create(path, "", deployed=True)
    assert (run.deployed, RunFolder.create(tmp_path / "own", "").deployed) == (True, False)
    with pytest.raises(RunError, match=r"not finished; finish it with: operator/run\.sh first$"):
        run.read_summary()
    with pytest.raises(RunError, match=r"with its nodes; .*: operator/run\.sh first$"):
        run.check_local()
    with pytest.raises(RunError, match=r"holds a run already.*operator/run\.sh first$"):
        RunFolder.create(path, "", deployed=True)  # never replaced
    RunFolder(tmp_path / "own").check_local()
