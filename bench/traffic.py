"""Bytes per client and round, and the effect of compressed adapters on the loss.

The same run with adapters sent as float32, float16 and int8. Bytes are relative to the adapters'
size in float32.

``python -m bench.traffic [--full]``
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from safetensors.numpy import load_file

from bench.output import publish
from fedrouter.config import ModelConfig, load_config
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.experiment import Experiment

CLIENTS, LOCAL_TASKS = 8, 2
SETTINGS = (
    "mode=paper",
    f"federation.clients={CLIENTS}",
    "training.lr=5e-3",
    "evaluation.samples=25",
    "evaluation.max_new_tokens=1",  # the loss is what counts here
    "model.dtype=bfloat16",
)


def one_run(shared_model: SharedModel, transport: str, seed: int, rounds: int) -> dict[str, float]:
    """The loss of a run, and the bytes per client and round."""
    asked = [f"seed={seed}", f"federation.transport={transport}", f"federation.rounds={rounds}"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        summary = Experiment(load_config(None, [*SETTINGS, *asked]), shared_model=shared_model).run(
            folder
        )
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        path = next(folder.glob("tasks/*/adapter_model.safetensors"))
        adapter = sum(array.size * 4 for array in load_file(path).values())
    records = [json.loads(line) for line in lines]
    profile = summary["bytes"]["up"] - sum(record["bytes_up"] for record in records)
    return {
        "loss": summary["metrics"]["global"]["loss"],
        "up": records[-1]["bytes_up"] / CLIENTS,
        "down": records[-1]["bytes_down"] / CLIENTS,
        "profile": profile / CLIENTS,
        "float32": LOCAL_TASKS * adapter,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="5 rounds and 3 seeds, not 3 and 1")
    full = parser.parse_args().full
    seeds, rounds = (range(1, 4), 5) if full else (range(1, 2), 3)
    shared_model = SharedModel.load(ModelConfig(dtype="bfloat16"))
    runs = {
        transport: [one_run(shared_model, transport, seed, rounds) for seed in seeds]
        for transport in ("float32", "float16", "int8")
    }
    rows = []
    for transport, found in runs.items():
        pairs = zip(found, runs["float32"], strict=True)
        worse = [100 * (one["loss"] / exact["loss"] - 1) for one, exact in pairs]
        rows.append(
            {
                "transport": transport,
                "KiB up": found[0]["up"] / 1024,
                "KiB down": found[0]["down"] / 1024,
                "of float32": found[0]["up"] / found[0]["float32"],
                "profiles KiB": found[0]["profile"] / 1024,
                "loss": float(np.mean([one["loss"] for one in found])),
                "against float32, %": mean(worse),
                "deviation": stdev(worse) if len(worse) > 1 else float("nan"),
            }
        )
    notes = [
        f"nano, bfloat16, built-in tasks, dual, {CLIENTS} clients, {rounds} rounds, "
        f"{len(seeds)} seed(s); bytes of one client and round. Centroids go up with "
        "profiles, before the first round, and down with an order to evaluate only.",
    ]
    publish("traffic", "Bytes and what they cost", rows, notes)


if __name__ == "__main__":
    main()
