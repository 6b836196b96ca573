"""The table of the discovered tasks, for the terminal and the HTML report."""

from collections.abc import Mapping, Sequence
from typing import Any

TASK_COLUMNS = ["task", "clients", "samples", "true tasks"]


def task_rows(tasks: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """One row for each entry of `tasks` in `summary.json`, under `TASK_COLUMNS`."""
    return [
        [
            task["id"],
            ", ".join(str(client) for client in task["clients"]),
            task["samples"],
            ", ".join(f"{name} {count}" for name, count in task["true_tasks"].items()) or "-",
        ]
        for task in tasks
    ]
