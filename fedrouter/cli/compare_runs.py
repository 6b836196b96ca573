"""`fedrouter compare-runs`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedrouter.cli.options import AsJson


def compare_runs(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Two run folders or more.")
    ],
    as_json: AsJson = False,
) -> None:
    """Put finished runs beside one another: settings that differ, scores by task, costs."""
    from fedrouter.cli.terminal import print_table
    from fedrouter.comparison import runs

    found = runs.compare_runs(folders)
    if as_json:
        print(json.dumps(found))
        return
    for table in runs.run_tables(found):
        print_table(table.title, table.columns, table.rows)
    for text in found["warnings"]:
        print(f"warning: {text}")
