"""What a run tells about single prompts, and what protection costs.

Two kinds of cells, appended to a file as they finish, one JSON line each; a cell that is in the
file is not measured again.

- Membership (`bench.membership`): the AUC of attacks by centroid, scatter and adapter update,
  against clients of `samples` rows.
- Utility: runs on the built-in tasks with `samples` rows per client, and what of the gain over the
  base model (its loss minus that of the run without protection) is left.

``python -m bench.privacy --out FILE [--clients 8,50,200] [--samples 5,20,100]
[--methods fedavg,ffa,told] [--epsilons none,8,2] [--units client] [--only membership|utility]``,
then ``python -m bench.privacy --out FILE --table``
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from bench.membership import Embedder, deal, one_round, profile_attacks, trained
from bench.output import Cells, measure_missing, publish, read_records
from bench.runs import finished_run
from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import Config, load_config
from fedrouter.data.builtin import TASK_NAMES
from fedrouter.evaluation.shared_model import SharedModel

SETTINGS = (
    "data.scenario=dual",
    "data.builtin_test=4",
    r'model.template="{instruction}\n"',
    "federation.rounds=3",
    "federation.transport=float32",
    "training.steps=1",
    "training.batch_size=2",
    "training.lr=0.008",
    "adapter.rank=1",
    "evaluation.samples=4",
    "evaluation.max_new_tokens=24",
)
METHODS: Mapping[str, tuple[str, ...]] = {
    "fedavg": ("strategy=fedavg", "clustering.n_local=2"),
    "ffa": ("strategy=ffa", "clustering.n_local=2"),
    "told": ("clustering.n_local=2", "clustering.n_global=8", "clustering.space=standardized"),
}
TASKS_OF_CLIENT = 2
ATTACK_SPEC = LoraSpec(rank=1, alpha=2, dropout=0.0)


@dataclass(frozen=True)
class Membership:
    """Attacks on a federation."""

    clients: int
    samples: int
    seed: int = 0

    def measure(self, shared_model: SharedModel) -> dict[str, Any]:
        """The AUC of each attack against each protection."""
        federation = deal(self.clients, self.samples, self.seed)
        found = profile_attacks(federation, Embedder(shared_model), self.seed)
        spec = ATTACK_SPEC.resolved(shared_model.base.model)
        values = {f"{attack}, {by}": round(value, 3) for (attack, by), value in found.items()}
        rounds = {}
        for method, by_task in (("fedavg", False), ("by task", True)):
            replies = trained(federation, shared_model, spec, self.seed, by_task)
            rounds[method] = one_round(federation, replies, shared_model, spec, self.seed)
        updates = {
            f"update ({method}), {by}": round(one["auc"], 3)
            for method, table in rounds.items()
            for by, one in table.items()
        }
        return {"auc": values | updates, "rounds": rounds}


@dataclass(frozen=True)
class Utility:
    """One run; `epsilon` 0 is without protection."""

    clients: int
    samples: int
    method: str
    epsilon: float
    unit: str = "client"
    options: str = ""
    seed: int = 0

    def config(self) -> Config:
        """The configuration of the run."""
        per_task = -(-self.samples * self.clients // len(TASK_NAMES))
        sets = [
            f"seed={self.seed}",
            f"federation.clients={self.clients}",
            f"data.builtin_train={per_task}",
            "aggregation.robust=none",
        ]
        if self.epsilon:
            sets += [
                f"privacy.epsilon={self.epsilon}",
                f"privacy.delta={0.1 / self.clients}",
                f"privacy.unit={self.unit}",
            ]
        options = self.options.split("+") if self.options else []
        return load_config(None, [*SETTINGS, *METHODS[self.method], *sets, *options])

    def measure(self, shared_model: SharedModel) -> dict[str, Any]:
        """The scores of the run."""
        summary = finished_run(self.config(), shared_model)
        scores, privacy = summary["metrics"], summary["privacy"]
        return {
            "loss": scores["global"]["loss"],
            "base": scores["base"]["loss"],
            "rouge1": scores["global"]["rouge1"],
            "routing": summary["routing"]["accuracy"],
            "movement": None if privacy is None else privacy["movement"],
        }


Cell = Membership | Utility
KINDS = {"membership": Membership, "utility": Utility}


def read(path: Path) -> dict[Cell, dict[str, Any]]:
    """The cells that are in the file."""
    found: dict[Cell, dict[str, Any]] = {}
    for record in read_records(path):
        found[KINDS[record["kind"]](**record["cell"])] = record
    return found


def cells(asked: argparse.Namespace) -> Iterator[Cell]:
    """The cells that were asked for, small ones first."""
    clients = [int(text) for text in asked.clients.split(",")]
    samples = [int(text) for text in asked.samples.split(",")]
    for number, size in product(clients, samples) if asked.only != "utility" else ():
        yield Membership(number, size, asked.seed)
    epsilons = [0.0 if text == "none" else float(text) for text in asked.epsilons.split(",")]
    units, methods = asked.units.split(","), asked.methods.split(",")
    for number, method, epsilon, unit in product(clients, methods, epsilons, units):
        if asked.only != "membership" and not (epsilon == 0 and unit != units[0]):
            cell = Utility(number, asked.rows, method, epsilon, unit, asked.options, asked.seed)
            yield cell if epsilon else replace(cell, unit="client", options="")


def measured(cell: Cell, shared_model: SharedModel) -> dict[str, Any]:
    """The record of a cell."""
    began = time.perf_counter()
    kind = next(name for name, cls in KINDS.items() if isinstance(cell, cls))
    result = cell.measure(shared_model)
    seconds = round(time.perf_counter() - began, 1)
    return {"kind": kind, "cell": asdict(cell), **result, "seconds": seconds}


def table(found: Mapping[Cell, Mapping[str, Any]]) -> Iterator[Cells]:
    """One row for each run, with the share of the gain over the base model that is left."""
    for cell, one in found.items():
        if isinstance(cell, Utility):
            plain = found.get(replace(cell, epsilon=0.0, unit="client", options=""))
            row = asdict(cell) | {k: one[k] for k in ("loss", "base", "rouge1")}
            row["routing"] = "" if one["routing"] is None else one["routing"]
            row["gain left %"] = ""
            if plain:
                row["gain left %"] = (
                    100 * (one["base"] - one["loss"]) / (one["base"] - plain["loss"])
                )
            yield row


def attack_table(found: Mapping[Cell, Mapping[str, Any]]) -> Iterator[Cells]:
    """One row for each attack, protection, and number of clients; a column per size of clients."""
    sizes = sorted({cell.samples for cell in found if isinstance(cell, Membership)})
    keys = dict.fromkeys(
        (cell.clients, name)
        for cell, one in found.items()
        if isinstance(cell, Membership)
        for name in one["auc"]
    )
    for clients, name in keys:
        row: dict[str, Any] = {"clients": clients, "attack, protection": name}
        for size in sizes:
            values = [
                one["auc"].get(name)
                for cell, one in found.items()
                if isinstance(cell, Membership) and (cell.clients, cell.samples) == (clients, size)
            ]
            row[f"{size} samples"] = values[0] if values else ""
        yield row


def main() -> None:
    """Measure the cells that are missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clients", default="8,50,200")
    parser.add_argument("--samples", default="5,20,100", help="rows of a client under attack")
    parser.add_argument("--rows", type=int, default=20, help="rows of a client in a run")
    parser.add_argument("--methods", default="fedavg,told")
    parser.add_argument("--epsilons", default="none,8,2")
    parser.add_argument("--units", default="client")
    parser.add_argument(
        "--options", default="privacy.max_norm=0.5", help="settings, with + between"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(KINDS))
    parser.add_argument("--table", action="store_true", help="print what the file holds")
    asked = parser.parse_args()
    found = read(asked.out)
    if not asked.table:
        shared_model = SharedModel.load(load_config(None, [*SETTINGS]).model)
        measure_missing(asked.out, cells(asked), found, lambda cell: measured(cell, shared_model))
        return
    for name, title, rows in (
        ("privacy", "What protection costs", list(table(found))),
        ("membership", "Membership: AUC", list(attack_table(found))),
    ):
        if rows:
            publish(name, title, rows, ["nano, float32, built-in tasks, delta 1 / (10 clients)."])


if __name__ == "__main__":
    main()
