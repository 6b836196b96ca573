"""A federation's bad day, with real processes: clients die, return, come late and send garbage; the
server is killed and started again."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.flower_processes import APP, Deployment, children
from support.places import ROOT
from support.toys import toy_settings

OWN_APPS = "fedrouter.engines.flower.apps"  # in the app's pyproject.toml
REFUSALS = (
    "is missing",
    "expected float32 of shape",
    "expected 1 to",
    "finite numbers",
    "got 'int64'",
    "Invalid JSON",
)

ROUND_S = 480  # seconds that the exchanges before round 1, each with processes of its own, may take


class Federation:
    """Nodes of clients 0, 1, ... around one SuperLink, and a run on them."""

    def __init__(self, folder: Path, base: Path, settings: list[str]) -> None:
        self.deployment = Deployment(folder)
        self.base = base
        self.settings = settings
        self.output = folder / "run"
        self.state = folder / "state"

    def node(self, client: int, name: str | None = None) -> None:
        """Start a client's SuperNode."""
        places = {"data": "run", "state-dir": str(self.state), "model": str(self.base)}
        config = {"partition-id": client, "num-partitions": 4, **places}
        self.deployment.node(name or f"node-{client}", config)

    def run(self) -> "subprocess.Popen[bytes]":
        return self.deployment.run("; ".join(self.settings), self.output)

    def records(self) -> list[dict[str, Any]]:
        """The rounds so far."""
        path = self.output / "metrics.jsonl"
        if not path.exists():
            return []
        whole = [line for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        return [json.loads(line) for line in whole]

    def wait_for_record(self, fits, what: str, seconds: float = 240) -> dict[str, Any]:
        """The first round that `fits`."""
        self.deployment.wait_for(lambda: any(map(fits, self.records())), what, seconds)
        return next(filter(fits, self.records()))

    def wait_for_rounds(self, number: int) -> None:
        self.deployment.wait_for(
            lambda: len(self.records()) >= number, f"{number} rounds to end", ROUND_S
        )

    def use_app(self, name: str) -> None:
        """Have Flower load an app of `tests/support`."""
        app = self.deployment.folder / "app"
        shutil.copytree(APP, app)
        shutil.copy(ROOT / f"tests/support/{name}.py", app)
        names = (app / "pyproject.toml").read_text()
        (app / "pyproject.toml").write_text(names.replace(OWN_APPS, name))

    def new_process(self, name: str, word: str) -> int:
        """The pid of the next process that a process of ours starts, by a word of its command."""
        parent = self.deployment.processes[name].pid
        before, found = set(children(parent)), list[int]()

        def look() -> bool:
            found[:] = [pid for pid in set(children(parent)) - before if word in command(pid)]
            return bool(found)

        self.deployment.wait_for(look, f"a new {word} under {name}", 120)
        return found[0]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def maps(pid: int) -> str:
    """The files that a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text()


def reasons(record: Mapping[str, Any]) -> dict[int, str]:
    return {failure["client"]: failure["reason"] for failure in record["failures"]}


@pytest.fixture
def federation(tiny_folder: Path, toy_data: Path, tmp_path: Path) -> Iterator[Federation]:
    sets = [text for text in toy_settings(tiny_folder, toy_data) if "template" not in text]
    sets += ["model.max_length=400", "federation.clients=4", "federation.rounds=12"]
    sets += ["federation.wait_s=30", "evaluation.samples=2"]
    made = Federation(tmp_path / "federation", tiny_folder, sets)
    try:
        yield made
    finally:
        made.deployment.stop()


@pytest.mark.slow
def test_a_slow_client_holds_no_round_and_its_late_reply_counts(federation: Federation) -> None:
    deployment = federation.deployment
    late = ["federation.deadline_s=1", "federation.min_clients=2", "federation.clients=3"]
    federation.settings += ["strategy=fedavg", "federation.rounds=5", "evaluation.enabled=false"]
    federation.settings += [*late, "federation.wait_s=200"]
    federation.use_app("slow_app")
    deployment.superlink()
    for client in range(3):
        federation.node(client)
    process = federation.run()
    deployment.wait_for(lambda: process.poll() is not None, "the run to end", 2 * ROUND_S)
    records = federation.records()
    assert len(records) == 5, deployment.logs()
    assert 1 in records[0]["late"]
    assert 1 not in records[1]["clients"]  # it is busy
    counted = [one for record in records for one in record["late_replies"]]
    assert {"client": 1, "round": 1} in counted, records
    assert all(record["loss"] is not None for record in records)
    assert all(record["simulated_s"] is None for record in records)


@pytest.mark.slow
def test_a_bad_day(federation: Federation) -> None:
    deployment = federation.deployment
    federation.use_app("garbage_app")
    deployment.superlink()
    for client in (0, 1, 3):  # 2 is late, 3 sends garbage
        federation.node(client)
    process = federation.run()
    server = federation.new_process("superlink", "flwr-serverapp")

    # A late node: its first reply says what data it has, then it trains.
    federation.wait_for_rounds(1)
    assert federation.records()[0]["clients"] == [0, 1, 3]
    federation.node(2)
    joined = federation.wait_for_record(lambda r: 2 in r["clients"], "the late node")
    federation.wait_for_rounds(joined["round"])
    assert 2 not in reasons(joined)

    # In the middle of one round, a node goes with all its processes, and another's client process.
    at_work = federation.new_process("node-0", "flwr-clientapp")
    # One that is killed before it takes up its task is merely started again.
    deployment.wait_for(lambda: "libtorch" in maps(at_work), "the client's process to work", 60)
    os.kill(at_work, signal.SIGKILL)
    os.killpg(deployment.processes["node-1"].pid, signal.SIGKILL)
    hurt = federation.wait_for_record(lambda r: 0 in reasons(r), "the crash to be noticed")
    assert reasons(hurt)[0] == "its process crashed"
    lost = federation.wait_for_record(lambda r: 1 in reasons(r), "the loss to be noticed")
    assert reasons(lost)[1] == "the node is gone"
    assert hurt["loss"] is not None  # the late client's part of the round was kept

    # The node comes back, and finds what it had: it is not asked for its profile again.
    labels = list(federation.state.glob("*/client-001/labels.safetensors"))
    assert len(labels) == 1
    written = labels[0].stat().st_mtime_ns
    federation.node(1, "node-1-again")
    federation.wait_for_record(
        lambda r: r["round"] > lost["round"] and 1 in r["clients"] and 1 not in reasons(r),
        "the node's return",
    )
    assert labels[0].stat().st_mtime_ns == written

    # The server's process is killed; the same command goes on after the last finished round.
    done = len(federation.records())
    os.kill(server, signal.SIGKILL)
    process.wait(120)
    assert not (federation.output / "summary.json").exists()
    process = federation.run()
    deployment.wait_for(lambda: process.poll() is not None, "the run to end", 400)
    records = federation.records()
    assert [record["round"] for record in records] == list(range(1, 13)), deployment.logs()
    assert len(records) > done
    assert (federation.output / "summary.json").exists(), deployment.logs()

    # Every round's garbage was refused for what was wrong with it.
    told = [reasons(record)[3] for record in records if 3 in record["clients"]]
    for refusal in REFUSALS:
        assert any(refusal in reason for reason in told), (refusal, told)
