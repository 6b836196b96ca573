"""What hostile clients cost, by attack and by rule of aggregation.

Every cell is a run on the built-in tasks in which some clients attack (`bench.hostile`). Cells are
appended to a file as they finish, one JSON line each, and a cell that is in the file is not run
again. The cost of an attack is the part of the clean run's loss reduction (base model minus clean
run with the plain mean) that is lost.

``python -m bench.attacks --out FILE [--methods told] [--rules none,clip] [--attacks ...]
[--hostile 1] [--clients 8] [--seeds 0]``, then ``python -m bench.attacks --out FILE --table``
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from sklearn.metrics import adjusted_rand_score

from bench.hostile import ATTACKS, Hostile
from bench.output import Cells, measure_missing, publish, read_records
from fedrouter.config import Config, load_config
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.experiment import Experiment
from fedrouter.seeding import generator
from fedrouter.server.engine import Engine
from fedrouter.storage.run_folder import RunFolder

SETTINGS = (
    "data.scenario=dual",
    "data.builtin_train=40",
    "data.builtin_test=10",
    r'model.template="{instruction}\n"',
    "federation.rounds=3",
    "federation.transport=float32",
    "training.steps=3",
    "training.batch_size=4",
    "training.lr=0.008",
    "evaluation.max_new_tokens=24",
)
METHODS: Mapping[str, tuple[str, ...]] = {
    "fedavg": ("strategy=fedavg",),
    "told": ("clustering.n_local=2", "clustering.n_global=8"),
    "auto": (),
}
# A rule and its options: "krum+no agreement+hostile=0.4"
RULES = ("none", "clip", "median", "trimmed_mean", "geometric_median", "krum")


@dataclass(frozen=True)
class Cell:
    """One run; `rule` may have options, as in "krum+hostile=0.4" or "clip+agreement=false"."""

    method: str
    rule: str
    attack: str
    hostile: int
    clients: int = 8
    seed: int = 0

    def config(self) -> Config:
        """The configuration of the run."""
        rule, *options = self.rule.split("+")
        sets = [
            f"seed={self.seed}",
            f"federation.clients={self.clients}",
            f"aggregation.robust={rule}",
            *(f"aggregation.{option}" for option in options),
        ]
        return load_config(None, [*SETTINGS, *METHODS[self.method], *sets])

    def attackers(self) -> list[int]:
        """The hostile clients."""
        order = generator(self.seed, "hostile").permutation(self.clients)
        return sorted(order[: self.hostile].tolist())


class Attacked(Experiment):
    """An experiment some of whose clients are hostile."""

    def __init__(self, cell: Cell, shared_model: SharedModel) -> None:
        super().__init__(cell.config(), shared_model=shared_model)
        self._cell = cell
        if cell.attack == "label flip":
            for client in cell.attackers():
                rows = self._dealt[client].train
                answers = [rows[i - 1].response for i in range(len(rows))]
                flipped = [replace(r, response=a) for r, a in zip(rows, answers, strict=True)]
                self._dealt[client] = replace(self._dealt[client], train=flipped)

    def _serve(self, folder: RunFolder, engine: Engine) -> dict[str, Any]:
        cell = self._cell
        hostile = Hostile(engine, cell.attack, cell.attackers(), cell.seed)
        return super()._serve(folder, hostile)


def measured(cell: Cell, shared_model: SharedModel) -> dict[str, Any]:
    """The result of a cell; an `error` if the run ended with an exception."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            experiment = Attacked(cell, shared_model)
            summary = experiment.run(Path(folder) / "run")
            lines = RunFolder.open(Path(folder) / "run").read_metrics()
        except Exception as error:  # an attack that ends the run is a result
            return asdict(cell) | {"error": f"{type(error).__name__}: {error}"[:300]}
    scores, bad = summary["metrics"], set(cell.attackers())
    failures = [
        (f["client"] in bad, "point against" in f["reason"]) for x in lines for f in x["failures"]
    ]
    return asdict(cell) | {
        "loss": scores["global"]["loss"],
        "rouge1": scores["global"]["rouge1"],
        "base": scores["base"]["loss"],
        "ari": routed_ari(summary["routing"]["confusion"]),
        "tasks": len(summary["tasks"]),
        "excluded": sum(hostile and against for hostile, against in failures),
        "excluded_honest": sum(not hostile and against for hostile, against in failures),
        "refused": sum(not against for _, against in failures),
        "seconds": round(time.perf_counter() - began, 1),
    }


def routed_ari(confusion: Mapping[str, Mapping[str, int]] | None) -> float | None:
    """ARI of the test prompts' tasks and their true ones."""
    if confusion is None:
        return None
    pairs = [
        (t, label) for t, row in confusion.items() for label, n in row.items() for _ in range(n)
    ]
    return float(adjusted_rand_score([t for t, _ in pairs], [label for _, label in pairs]))


def read(path: Path) -> dict[Cell, dict[str, Any]]:
    """The cells that are in the file."""
    names = Cell.__dataclass_fields__
    return {Cell(**{name: one[name] for name in names}): one for one in read_records(path)}


def table(found: Mapping[Cell, Mapping[str, Any]]) -> Iterator[Cells]:
    """One row for each cell, with its cost."""
    for cell, one in found.items():
        clean = found.get(replace(cell, attack="none", hostile=0, rule="none"))
        row: dict[str, Any] = asdict(cell)
        for name in ("loss", "rouge1", "ari", "tasks", "excluded", "excluded_honest", "refused"):
            row[name] = one.get(name, "")
        row["cost %"] = ""
        if "error" in one:
            row["loss"] = one["error"][:40]
        elif clean and "loss" in clean:
            row["cost %"] = 100 * (one["loss"] - clean["loss"]) / (clean["base"] - clean["loss"])
        yield row


def cells(asked: argparse.Namespace) -> list[Cell]:
    """The cells that were asked for; a clean run has no hostile client."""
    every = product(
        map(int, asked.seeds.split(",")),
        map(int, asked.hostile.split(",")),
        asked.attacks.split(","),
        asked.rules.split(","),
        asked.methods.split(","),
    )
    found = [
        Cell(method, rule, attack, 0 if attack == "none" else number, asked.clients, seed)
        for seed, number, attack, rule, method in every
        if not (attack in PROFILE_ONLY and method == "fedavg")
        and not (attack == "false losses" and method == "told")
        and not (attack == "swapped" and method == "fedavg")
    ]
    return list(dict.fromkeys(found))


PROFILE_ONLY = ("invented tasks", "placed centroids", "false losses")


def main() -> None:
    """Run the cells that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default="fedavg,told,auto")
    parser.add_argument("--rules", default="none,clip")
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--hostile", default="1")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--table", action="store_true", help="print what the file holds")
    asked = parser.parse_args()
    found = read(asked.out)
    if not asked.table:
        shared_model = SharedModel.load(load_config(None, [*SETTINGS]).model)
        measure_missing(asked.out, cells(asked), found, lambda cell: measured(cell, shared_model))
        return
    publish("attacks", "Hostile clients", list(table(found)), ["nano, float32, built-in tasks."])


if __name__ == "__main__":
    main()
