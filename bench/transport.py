"""Loss and bytes by how adapters travel: float32, float16, int8, int4, with and without error
feedback.

Eight clients, two built-in tasks each, their numbers given. Every cell is a run of some rounds; the
loss is that of all test rows, each answered by the adapter of its task. Finished cells are appended
to a file and not run again.

``python -m bench.transport --out FILE [--seeds 1,2,3] [--cases "float16;int4"]``
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.output import measure_missing, publish, read_records
from fedrouter.config import load_config
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.experiment import Experiment

EXACT = "float32"  # what the others are compared with
CASES: Mapping[str, tuple[str, ...]] = {
    EXACT: ("federation.transport=float32",),
    "float16": ("federation.transport=float16",),
    "int8": ("federation.transport=int8",),
    "int4": ("federation.transport=int4",),
    "int4, feedback": ("federation.transport=int4", "federation.error_feedback=true"),
}
SETTINGS = (
    "clustering.n_local=2",
    "clustering.n_global=8",
    "data.scenario=dual",
    "data.builtin_train=60",
    "data.builtin_test=15",
    r'model.template="{instruction}\n"',
    "federation.rounds=10",
    "training.steps=3",
    "training.batch_size=4",
    "training.lr=0.008",
    "evaluation.max_new_tokens=1",  # the loss is what counts here
)


def measured(case: str, seed: int, shared_model: SharedModel) -> dict[str, Any]:
    """The result of one run; bytes are those of its last round."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        config = load_config(None, [*SETTINGS, *CASES[case], f"seed={seed}"])
        summary = Experiment(config, shared_model=shared_model).run(folder)
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "transport": case,
        "seed": seed,
        "loss": summary["metrics"]["global"]["loss"],
        "local": summary["metrics"]["local"]["loss"],
        "up": last["bytes_up"],
        "down": last["bytes_down"],
        "run": sum(summary["bytes"].values()),
    }


def read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The cells that are in the file."""
    return {(one["transport"], one["seed"]): one for one in read_records(path)}


def rows(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each case: means over the seeds that float32 was measured with too."""
    table = []
    for case in CASES:
        pairs = [
            (one, found[EXACT, seed])
            for (name, seed), one in found.items()
            if name == case and (EXACT, seed) in found
        ]
        if not pairs:
            continue
        worse = [100 * (one["loss"] / exact["loss"] - 1) for one, exact in pairs]
        table.append(
            {
                "transport": case,
                "seeds": len(pairs),
                "KiB up": mean(one["up"] for one, _ in pairs) / 1024,
                "KiB down": mean(one["down"] for one, _ in pairs) / 1024,
                "of float32": mean(one["up"] / exact["up"] for one, exact in pairs),
                "run MB": mean(one["run"] for one, _ in pairs) / 1e6,
                "loss": mean(one["loss"] for one, _ in pairs),
                "against float32, %": mean(worse),
                "deviation": stdev(worse) if len(worse) > 1 else float("nan"),
            }
        )
    return table


def main() -> None:
    """Run the cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--cases", default=";".join(CASES), help="separated by semicolons")
    asked = parser.parse_args()
    found = read(asked.out)
    shared_model = SharedModel.load(load_config(None, [*SETTINGS]).model)
    cells = (
        (case, int(seed)) for seed in asked.seeds.split(",") for case in asked.cases.split(";")
    )
    measure_missing(asked.out, cells, found, lambda cell: measured(*cell, shared_model))
    notes = ["nano, float32, built-in tasks, dual; bytes of all eight clients in the last round."]
    publish("transport", "How adapters travel", rows(found), notes)


if __name__ == "__main__":
    main()
