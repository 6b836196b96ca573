"""Progress and tables on a terminal, whatever its encoding and width."""

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

from fedrouter.errors import printable
from fedrouter.progress import Progress
from fedrouter.routing.history import describe_event
from fedrouter.server.summary import TASK_COLUMNS, task_rows

LOG_EVERY_S = 10.0  # seconds between two log lines of a phase, at least


class BarProgress(Progress):
    """Progress bars with the remaining time, for a terminal. A context manager.

    Args:
        keep: whether the bars of finished phases stay on the screen.
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
        """Print a line above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)


class LogProgress(Progress):
    """Progress as plain lines on standard error, for output to a file. A context manager."""

    def __init__(self) -> None:
        self._name, self._total, self._done = "", 0, 0
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> "LogProgress":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def phase(self, name: str, total: int) -> None:
        """Print a line when a phase begins."""
        self._name, self._total, self._done = name, total, 0
        self._started = self._last_line = time.monotonic()
        self.message(f"{name}: {total} to do")

    def advance(self, steps: int) -> None:
        """Print a line every LOG_EVERY_S seconds, and one at the end of the phase."""
        self._done += steps
        now = time.monotonic()
        if steps and (self._done >= self._total or now - self._last_line >= LOG_EVERY_S):
            self._last_line = now
            left = (now - self._started) * (self._total - self._done) / max(self._done, 1)
            self.message(f"{self._name}: {self._done}/{self._total}, {left:.0f} s left")

    def message(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)


def make_progress(keep: bool = True) -> BarProgress | LogProgress:
    """Progress bars on a terminal (see `BarProgress` for `keep`), plain lines elsewhere."""
    return BarProgress(keep) if sys.stderr.isatty() else LogProgress()


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    below: Sequence[Sequence[object]] = (),
) -> None:
    """Print a table on standard output.

    Args:
        title: the heading above the table.
        columns: the column headings.
        rows: one cell for each column; columns of numbers are right-aligned.
        below: rows to print under a rule.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(
            column, justify="right" if numeric else "left", overflow="fold", no_wrap=i == 0
        )
    for part in (rows, below):
        for row in part:
            table.add_row(*map(_cell, row))
        table.add_section()
    width = None if sys.stdout.isatty() else 110
    Console(width=width, highlight=False, markup=False).print(table)


def _cell(value: object) -> str:
    """A value as a cell; names of tasks come from clients' data, and must not move the cursor."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return printable(text, len(text))


def print_scores(
    title: str, by_task: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> None:
    """Print ROUGE-1 and exact match by task, side by side for several models.

    Args:
        title: the heading above the table.
        by_task: task -> model key -> scores.
        names: model key -> column heading, in the order of the columns.
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
    """Print the discovered tasks of a summary."""
    print_table("Discovered tasks", TASK_COLUMNS, task_rows(tasks))


def print_history(events: Sequence[Mapping[str, Any]]) -> None:
    """Print the events in the history of a summary, if there are any."""
    rows = [[event["round"], event["task"], describe_event(event)] for event in events]
    if rows:
        print_table("Tasks over time", ["after round", "task", "event"], rows)


def print_routing(routing: Mapping[str, float | None]) -> None:
    """Print how well the discovered tasks match the true ones, if the rows name their task."""
    if routing["accuracy"] is not None:
        print(
            f"routing: {routing['accuracy']:.1%} of the test prompts go to the right task; "
            f"clustering: ARI {routing['ari']:.3f}, NMI {routing['nmi']:.3f}"
        )
