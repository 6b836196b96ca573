"""The overhead of Flower: the same short rounds in one process, in simulation and in deployment.

Every client trains one step on one row, so that a round consists almost only of overhead. The
deployment has one SuperLink and one SuperNode per client, all on this machine.

``PYTHONPATH=tests python -m bench.engines [--full]``; needs ``pip install fedrouter[flower]``.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from support.flower_processes import Deployment, children

from bench.output import publish
from fedrouter.config import Config, load_config
from fedrouter.experiment import run

CLIENTS = 2
MIB = 2**20


def settings(rounds: int) -> list[str]:
    """Rounds with almost no work: 2 local tasks per client, one step on one row for each."""
    return [
        f"federation.clients={CLIENTS}",
        f"federation.rounds={rounds}",
        "clustering.n_local=2",
        "clustering.n_global=4",
        "training.steps=1",
        "training.batch_size=1",
        "evaluation.enabled=false",
    ]


def main() -> None:
    """Print the table of the three engines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="20 rounds instead of 5")
    rounds = 20 if parser.parse_args().full else 5
    asked = settings(rounds)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [
            timed_run("in process", load_config(None, asked), folder / "inprocess"),
            timed_run(
                "simulation", load_config(None, [*asked, "engine.name=flower"]), folder / "flower"
            ),
            deployed(asked, folder / "deployment"),
        ]
    for row in rows:
        row["beyond in process"] = row["seconds a round"] - rows[0]["seconds a round"]
    notes = [
        f"{CLIENTS} clients, {rounds} rounds; median over the rounds after the first. Bytes are "
        "those of one client and round, as float16, against its adapters as float32.",
        "start: all but the rounds; memory: of one SuperNode, and with its client process at work.",
    ]
    publish("engines", "A round's overhead, engine by engine", rows, notes)


def timed_run(name: str, config: Config, folder: Path) -> dict[str, Any]:
    """A run on this process's engine or in Flower's simulation."""
    began = time.perf_counter()
    run(config, folder)
    return figures(name, folder, time.perf_counter() - began)


def deployed(asked: list[str], folder: Path) -> dict[str, Any]:
    """The same run with a SuperLink and SuperNodes; also measures their memory."""
    deployment = Deployment(folder)
    try:
        began = time.perf_counter()
        deployment.superlink()
        for i in range(CLIENTS):
            state = f"{folder}/state-{i}"
            places = {"data": "run", "state-dir": state, "model": "nano"}
            deployment.node(f"node-{i}", {"partition-id": i, "num-partitions": CLIENTS, **places})
        output = folder / "run"
        process = deployment.run("; ".join(asked), output)
        idle, peak = 0, 0
        while process.poll() is None:
            own, *others = list(memory(deployment.processes["node-0"].pid)) or [0]
            idle, peak = max(idle, own), max(peak, own + sum(others))
            time.sleep(0.2)
        if not (output / "summary.json").exists():
            raise SystemExit(f"the deployment failed: {deployment.logs()}")
        row = figures("deployment", output, time.perf_counter() - began)
    finally:
        deployment.stop()
    return row | {"SuperNode MiB": idle / MIB, "with client MiB": peak / MIB}


def memory(pid: int) -> Iterator[int]:
    """The memory in bytes of a process and its children, as Linux's proportional set size."""
    for one in (pid, *children(pid)):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        yield next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def figures(name: str, folder: Path, total: float) -> dict[str, Any]:
    """A run as a row: seconds per round, and bytes per client and round."""
    rounds = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [sum(record["seconds"].values()) for record in rounds]
    up = median(record["bytes_up"] for record in rounds) / CLIENTS
    down = median(record["bytes_down"] for record in rounds) / CLIENTS
    return {
        "engine": name,
        "seconds a round": median(seconds[1:]),
        "beyond in process": 0.0,
        "start seconds": total - sum(seconds),
        "KiB up": up / 1024,
        "KiB down": down / 1024,
        "of float32": up / (2 * adapter_bytes(folder)),
        "SuperNode MiB": float("nan"),
        "with client MiB": float("nan"),
    }


def adapter_bytes(folder: Path) -> int:
    """Bytes of one adapter's tensors in float32."""
    from safetensors.numpy import load_file

    path = next(folder.glob("tasks/*/adapter_model.safetensors"))
    return sum(array.nbytes for array in load_file(path).values())


if __name__ == "__main__":
    main()
