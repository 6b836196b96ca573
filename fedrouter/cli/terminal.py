"""Tables on a terminal, whatever its encoding and width."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fedrouter.errors import printable
from fedrouter.routing.history import describe_event
from fedrouter.server.summary import TASK_COLUMNS, privacy_line, task_rows


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


def print_privacy(summary: Mapping[str, Any]) -> None:
    """Print what a run has spent of its privacy budget, if it has one."""
    line = privacy_line(summary.get("privacy"))
    if line:
        print(line)
