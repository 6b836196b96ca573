"""What people see on a terminal: progress and tables."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Table

from fedrouter.progress import Progress
from fedrouter.routing.history import describe_event

LOG_EVERY_S = 10.0  # plain log lines come at most this often


class BarProgress(Progress):
    """Progress bars with the time left, for a terminal. A context manager.

    Args:
        keep: leave the bars of finished phases there; else one bar takes the place of another.
    """

    def __init__(self, keep: bool = True) -> None:
        self._keep = keep
        self._bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._current: TaskID | None = None

    def __enter__(self) -> "BarProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def phase(self, name: str, total: int) -> None:
        """Start a new bar."""
        if self._current is not None and not self._keep:
            self._bars.remove_task(self._current)
        self._current = self._bars.add_task(name, total=total)

    def advance(self, steps: int) -> None:
        """Move the current bar."""
        if self._current is not None:
            self._bars.advance(self._current, steps)

    def message(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(text, highlight=False)


class LogProgress(Progress):
    """Plain lines on standard error, where that is not a terminal. A context manager."""

    def __init__(self) -> None:
        self._name, self._total, self._done = "", 0, 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> "LogProgress":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def phase(self, name: str, total: int) -> None:
        """A line when a phase begins."""
        self._name, self._total, self._done = name, total, 0
        self._began = self._said = time.monotonic()
        self.message(f"{name}: {total} to do")

    def advance(self, steps: int) -> None:
        """A line now and then, and one at the end of the phase."""
        self._done += steps
        now = time.monotonic()
        if steps and (self._done >= self._total or now - self._said >= LOG_EVERY_S):
            self._said = now
            left = (now - self._began) * (self._total - self._done) / max(self._done, 1)
            self.message(f"{self._name}: {self._done}/{self._total}, {left:.0f} s left")

    def message(self, text: str) -> None:
        """A line."""
        print(text, file=sys.stderr, flush=True)


def make_progress(keep: bool = True) -> BarProgress | LogProgress:
    """Bars on a terminal (those of finished phases stay if `keep`), plain lines elsewhere."""
    return BarProgress(keep) if sys.stderr.isatty() else LogProgress()


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    below: Sequence[Sequence[object]] = (),
) -> None:
    """A table on standard output; the first column is text, numbers are right-aligned; the rows
    `below` stand under a rule."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(
            column, justify="right" if numeric else "left", overflow="fold", no_wrap=i == 0
        )
    for part in (rows, below):
        for row in part:
            cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
            table.add_row(*cells)
        table.add_section()
    width = None if sys.stdout.isatty() else 110
    Console(width=width, highlight=False, markup=False).print(table)


def print_scores(
    title: str, by_task: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> None:
    """ROUGE-1 and exact match by task, side by side for several contestants.

    Args:
        title: the table's title.
        by_task: task -> contestant's key -> scores.
        names: contestant's key -> heading, in the order of the columns.
    """
    shown = {"rouge1": "ROUGE-1", "exact_match": "exact"}
    columns = [f"{label} {name}" for label in shown.values() for name in names.values()]
    rows = [
        [task, *(scores[key][score] for score in shown for key in names)]
        for task, scores in by_task.items()
    ]
    if len(rows) > 1:
        means = [sum(row[i] for row in rows) / len(rows) for i in range(1, len(rows[0]))]
        rows.append(["mean", *means])
    print_table(title, ["task", *columns], rows)


def print_tasks(tasks: Sequence[Mapping[str, Any]]) -> None:
    """The tasks that were found, from a summary."""
    rows = [
        [
            task["id"],
            ", ".join(str(client) for client in task["clients"]),
            task["samples"],
            ", ".join(f"{name} {count}" for name, count in task["true_tasks"].items()) or "-",
        ]
        for task in tasks
    ]
    print_table("Tasks found", ["task", "clients", "samples", "true tasks"], rows)


def print_history(events: Sequence[Mapping[str, Any]]) -> None:
    """What became of tasks, from a summary; nothing where nothing did."""
    rows = [[event["round"], event["task"], describe_event(event)] for event in events]
    if rows:
        print_table("Tasks over time", ["after round", "task", "event"], rows)


def print_routing(routing: Mapping[str, float | None]) -> None:
    """One line on how well found tasks match true ones, where rows name their task."""
    if routing["accuracy"] is not None:
        print(
            f"routing: {routing['accuracy']:.1%} of test prompts to the right task; "
            f"clustering: ARI {routing['ari']:.3f}, NMI {routing['nmi']:.3f}"
        )
