"""A benchmark's table, on the screen and as JSON."""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"

Cells = Mapping[str, Any]
Cell = TypeVar("Cell")


def publish(name: str, title: str, rows: Sequence[Cells], notes: Sequence[str] = ()) -> None:
    """Print the rows of a benchmark and write bench/results/NAME.json."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for note in notes:
        console.print(note)
    RESULTS.mkdir(exist_ok=True)
    record = {"title": title, "rows": list(rows), "notes": list(notes), "machine": machine()}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records in a file of `measure_missing`; none if there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def measure_missing(
    path: Path, cells: Iterable[Cell], found: dict[Cell, Any], measure: Callable[[Cell], Cells]
) -> None:
    """Measure the cells that are not in `found`; each is appended to the file as it finishes.

    Args:
        path: the file, one JSON line for each cell.
        cells: what was asked for.
        found: cell -> its record; the new ones are added.
        measure: the record of a cell.
    """
    for cell in cells:
        if cell not in found:
            found[cell] = measure(cell)
            line = json.dumps(found[cell])
            with path.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)


def machine() -> dict[str, Any]:
    """The hardware and the versions of the measurement."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": " ".join(["python", "-m", *_module(), *sys.argv[1:]]),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _module() -> list[str]:
    path = Path(sys.argv[0])
    return [f"{path.parent.name}.{path.stem}"]


def _cpu() -> str:
    """The name of the processor, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "?")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
