"""Check before a release that no speed ratio is below its floor; takes a minute.

Writes ``bench/check.json``: name -> ratio and floor; each floor is at least 0.7 of the ratio in
docs/performance.md. The exit code is the number of ratios below their floors.

``python -m bench.check``
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import inference, profiling, training
from bench.pairs import timed
from fedrouter.config import ModelConfig
from fedrouter.data.builtin import builtin_rows
from fedrouter.model.base_model import BaseModel

FILE = Path(__file__).parent / "check.json"
REPEATS = 3
ANSWERS = 7  # pairs of a second each


def train_ratios() -> dict[str, float]:
    """The bank against PEFT."""
    sides = training.Sides(training.loader("nano", "float32", "cpu"))
    cells = [training.Cell(8, 1, 64), training.Cell(8, 4, 64), training.Cell(8, 4, 128, True)]
    found = {}
    for cell in cells:
        jobs = sides.jobs(cell)
        pairs = timed(lambda: sides.ours(jobs), lambda: sides.theirs(jobs), REPEATS)  # noqa: B023
        found[f"training, batch {cell.batch}, {'mixed' if cell.mixed else 'equal'} lengths"] = (
            pairs.ratio
        )
    return found


def answer_ratios() -> dict[str, float]:
    """Mixed batches against PEFT, and with routing against without."""
    sides = inference.Sides.make()
    rows, _ = builtin_rows(20, 1)
    prompts = [row.instruction for row in rows]
    asked, names = prompts[:: len(prompts) // 8][:8], list(sides.multi_adapter.names)
    others: dict[str, Callable[[], object]] = {
        "answers, a pass for each adapter": lambda: sides.one_by_one(asked, names),
        "answers, adapter_names": lambda: sides.by_names(asked, names),
    }
    found = {
        name: timed(lambda: sides.mixed(asked, names), other, ANSWERS).ratio
        for name, other in others.items()
    }
    routed = inference.routing(sides, prompts, 8, ANSWERS)
    return found | {"answers, without routing": routed.ratio}


def profile_ratios() -> dict[str, float]:
    """Embedding against the forward passes alone, on the same tokens."""
    base = BaseModel.load(ModelConfig())
    texts = profiling.prompts(200 * (REPEATS + 1))
    parts = [texts[i : i + 200] for i in range(0, len(texts), 200)]
    ours, theirs = iter(parts), iter([profiling.batches(base, part) for part in parts])
    pairs = timed(
        lambda: base.embed(next(ours)), lambda: profiling.forward(base, next(theirs)), REPEATS
    )
    return {"embedding, the forward pass": pairs.ratio}


FLOORS = {
    "training, batch 1, equal lengths": 2.05,
    "training, batch 4, equal lengths": 1.7,
    "training, batch 4, mixed lengths": 1.4,
    "answers, a pass for each adapter": 2.75,
    "answers, adapter_names": 1.05,
    "answers, without routing": 0.75,
    "embedding, the forward pass": 0.7,
}


def main() -> int:
    """Print the ratios and their floors; returns the number of ratios below them."""
    found = answer_ratios() | train_ratios() | profile_ratios()  # answers suffer after training
    table = Table("against", "ratio", "floor", title="Ratios and their floors")
    for name, floor in FLOORS.items():
        mark = "" if found[name] >= floor else "  below its floor"
        table.add_row(name, f"{found[name]:.2f}", f"{floor:.2f}{mark}")
    Console().print(table)
    record = {name: {"ratio": found[name], "floor": floor} for name, floor in FLOORS.items()}
    FILE.write_text(json.dumps(record, indent=1) + "\n")
    return sum(found[name] < floor for name, floor in FLOORS.items())


if __name__ == "__main__":
    sys.exit(main())
