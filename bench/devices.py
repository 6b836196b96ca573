"""Slow and absent devices: loss, simulated time and bytes.

Eight clients, two built-in tasks each, their numbers given. "half absent" has half of the clients
absent at random in each round, at about as many updates as "all present": twice the rounds. "half
asked" has the same number of rounds and nobody absent, but the server asks half of the clients. In
the other cases a quarter of the clients is ten times as slow as the others: 5 rounds that wait for
them take longer than 20 rounds with a deadline. Finished cells are appended to a file and not run
again.

``python -m bench.devices --out FILE [--seeds 1,2,3] [--cases "all present,half absent"]``
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.output import measure_missing, publish, read_records
from bench.runs import finished_run
from fedrouter.config import load_config
from fedrouter.evaluation.shared_model import SharedModel

SLOW = "federation.devices=[{share=0.75}, {share=0.25, speed=100.0}]"
DEADLINE = "federation.deadline_s=5"
CASES: Mapping[str, tuple[str, ...]] = {
    "all present": ("federation.devices=[{share=1.0}]", "federation.rounds=5"),
    "half absent": (
        "federation.devices=[{share=1.0, absent=0.5}]",
        DEADLINE,
        "federation.rounds=10",
    ),
    "half asked": (
        "federation.devices=[{share=1.0}]",
        "federation.fraction=0.5",
        "federation.rounds=10",
    ),
    "slow: all waited for": (SLOW, "federation.rounds=5"),
    "slow: late dropped": (SLOW, DEADLINE, "federation.late=drop", "federation.rounds=20"),
    "slow: late in the next": (SLOW, DEADLINE, "federation.rounds=20"),
    "slow: equal time": (SLOW, "federation.equal_time=true", "federation.rounds=5"),
}
SETTINGS = (
    "clustering.n_local=2",
    "clustering.n_global=8",
    "data.scenario=dual",
    "data.builtin_train=80",
    "data.builtin_test=15",
    r'model.template="{instruction}\n"',
    "training.steps=5",
    "training.batch_size=4",
    "training.lr=0.008",
    "evaluation.max_new_tokens=4",
)


def measured(strategy: str, case: str, seed: int, shared_model: SharedModel) -> dict[str, Any]:
    """The result of one run."""
    sets = [*SETTINGS, *CASES[case], f"strategy={strategy}", f"seed={seed}"]
    summary = finished_run(load_config(None, sets), shared_model)
    return {
        "strategy": strategy,
        "case": case,
        "seed": seed,
        "loss": summary["metrics"]["global"]["loss"],
        "local loss": summary["metrics"]["local"]["loss"],
        "tokens": summary["tokens"],
        "simulated s": summary["simulated_s"],
        "mb": sum(summary["bytes"].values()) / 1e6,
    }


def read(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The cells that are in the file."""
    return {(one["strategy"], one["case"], one["seed"]): one for one in read_records(path)}


def main() -> None:
    """Run the cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--strategies", default="fedrouter")
    asked = parser.parse_args()
    found = read(asked.out)
    shared_model = SharedModel.load(load_config(None, [*SETTINGS]).model)
    asked_for = (
        (strategy, case, int(seed))
        for seed in asked.seeds.split(",")
        for strategy in asked.strategies.split(",")
        for case in asked.cases.split(",")
    )
    measure_missing(asked.out, asked_for, found, lambda cell: measured(*cell, shared_model))
    rows = []
    for strategy, case in dict.fromkeys(cell[:2] for cell in found):
        own = [one for cell, one in found.items() if cell[:2] == (strategy, case)]
        row: dict[str, Any] = {"strategy": strategy, "case": case, "seeds": len(own)}
        for score in ("loss", "local loss", "tokens", "simulated s", "mb"):
            row[score] = mean(one[score] for one in own)
        if len(own) > 1:
            row["loss deviation"] = stdev(one["loss"] for one in own)
        rows.append(row)
    publish("devices", "Slow and absent devices", rows, ["nano, float32, built-in tasks."])


if __name__ == "__main__":
    main()
