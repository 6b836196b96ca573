"""Simulation of many clients in one process: time and memory of a round by number of clients.

Every client has eight rows of two tasks and trains some steps of four rows on each. Each number of
clients runs in its own process.

``python -m bench.many_clients [--full] [--steps N]``
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.output import publish
from fedrouter.config import load_config
from fedrouter.experiment import run

ROUNDS = 2
ROWS = 8  # of each client


def one_run(clients: int, steps: int) -> dict[str, float]:
    """A run with `clients` clients, in this process."""
    asked = [
        "mode=paper",
        f"federation.clients={clients}",
        f"federation.rounds={ROUNDS}",
        f"training.steps={steps}",
        "training.batch_size=4",
        f"data.builtin_train={clients * ROWS // 8}",
        "data.builtin_test=1",
        "evaluation.enabled=false",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        summary = run(load_config(None, asked), folder)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    seconds = [sum(json.loads(line)["seconds"].values()) for line in lines]
    return {
        "tokens": summary["tokens"] / ROUNDS,
        "seconds a round": median(seconds),
        "profile seconds": summary["seconds"]["profile"],
        "MiB": summary["peak_rss_mb"],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="512 clients too")
    parser.add_argument("--steps", type=int, default=4, help="of each task and round")
    parser.add_argument("--clients", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.clients:
        print(json.dumps(one_run(asked.clients, asked.steps)))
        return
    rows = []
    for clients in (8, 64, 512) if asked.full else (8, 64):
        command = [sys.executable, "-m", "bench.many_clients", "--clients", str(clients)]
        command += ["--steps", str(asked.steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        row = {
            "clients": clients,
            **found,
            "tokens a second": found["tokens"] / found["seconds a round"],
        }
        rows.append(row)
    for row in rows:
        row["speed, of 8 clients"] = row["tokens a second"] / rows[0]["tokens a second"]
        row["memory, of 8 clients"] = row["MiB"] / rows[0]["MiB"]
    notes = [
        f"nano, float32, {ROUNDS} rounds, {asked.steps} steps of 4 rows for each of 2 local tasks."
    ]
    publish("many_clients", "Many clients in one process", rows, notes)


if __name__ == "__main__":
    main()
