"""Clients of different ranks: loss and bytes, by the mean that joins their adapters.

Eight clients, two built-in tasks each, their numbers given; client k has the rank k modulo 4 of
2, 4, 8, 16. The references are runs in which all clients have rank 2 or rank 16. Every cell is a
run of some rounds with the adapters' scale alpha / rank equal. Finished cells are appended to a
file and not run again.

``python -m bench.ranks --out FILE [--seeds 1,2,3] [--strategies fedrouter] [--model FOLDER]``
A model from a folder, such as models/smollm2-135m, has fewer rows and steps; give it a file of its
own.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.output import measure_missing, publish, read_records
from bench.runs import finished_run
from fedrouter.config import load_config
from fedrouter.evaluation.shared_model import SharedModel

MIXED = "federation.ranks=[2, 4, 8, 16]"
CASES: Mapping[str, tuple[str, ...]] = {
    "all 2": ("federation.ranks=[2]",),
    "all 16": (),
    "zero_padding": (MIXED, "aggregation.ranks=zero_padding"),
    "partition": (MIXED, "aggregation.ranks=partition"),
    "svd": (MIXED, "aggregation.ranks=svd"),
}
SETTINGS = (
    "aggregation.robust=none",
    "adapter.rank=16",
    "adapter.alpha=32",
    "clustering.n_local=2",
    "clustering.n_global=8",
    "data.scenario=dual",
    "data.builtin_train=80",
    "data.builtin_test=15",
    r'model.template="{instruction}\n"',
    "federation.rounds=5",
    "training.steps=5",
    "training.batch_size=4",
    "training.lr=0.008",
    "evaluation.max_new_tokens=24",
)
SMALLER = (  # for a model of real size
    "federation.rounds=3",
    "training.steps=3",
    "training.batch_size=2",
    "training.lr=0.005",
    "training.lr_min=0.0005",
    "evaluation.samples=5",
)


def settings(model: str | None) -> tuple[str, ...]:
    """The settings of all cells, for nano (None) or a model in a folder."""
    return SETTINGS if model is None else (*SETTINGS, *SMALLER, f"model.name={model}")


def measured(
    strategy: str, case: str, seed: int, shared_model: SharedModel, shared: Sequence[str]
) -> dict[str, Any]:
    """The result of one run."""
    sets = [*shared, *CASES[case], f"strategy={strategy}", f"seed={seed}"]
    summary = finished_run(load_config(None, sets), shared_model)
    return {
        "strategy": strategy,
        "ranks": case,
        "seed": seed,
        "loss": summary["metrics"]["global"]["loss"],
        "rouge1": summary["metrics"]["global"]["rouge1"],
        "mb": sum(summary["bytes"].values()) / 1e6,
    }


def read(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The cells that are in the file."""
    return {(one["strategy"], one["ranks"], one["seed"]): one for one in read_records(path)}


def main() -> None:
    """Run the cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--strategies", default="fedrouter")
    parser.add_argument("--model", help="the folder of a base model; default: nano")
    asked = parser.parse_args()
    found = read(asked.out)
    shared = settings(asked.model)
    shared_model = SharedModel.load(load_config(None, [*shared]).model)
    asked_for = (
        (strategy, case, int(seed))
        for seed in asked.seeds.split(",")
        for strategy in asked.strategies.split(",")
        for case in CASES
    )
    measure_missing(asked.out, asked_for, found, lambda cell: measured(*cell, shared_model, shared))
    rows = []
    for strategy, case in dict.fromkeys(cell[:2] for cell in found):
        own = [one for cell, one in found.items() if cell[:2] == (strategy, case)]
        row: dict[str, Any] = {"strategy": strategy, "ranks": case, "seeds": len(own)}
        for score in ("loss", "rouge1", "mb"):
            values = [one[score] for one in own]
            row[score] = mean(values)
            if len(values) > 1 and score != "mb":
                row[f"{score} deviation"] = stdev(values)
        rows.append(row)
    publish(
        "ranks",
        "Clients of different ranks",
        rows,
        [f"{asked.model or 'nano'}, float32, built-in tasks."],
    )


if __name__ == "__main__":
    main()
