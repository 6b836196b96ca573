"""The commands that tell what is in a run folder."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrouter.cli.options import AsJson, RunDir
from fedrouter.cli.prompts import one_line
from fedrouter.errors import DataError, RunError

if TYPE_CHECKING:
    from fedrouter.cli.finished_run import FinishedRun

SCOPES = {"base": "base", "global": "routed"}  # scopes of scores -> headings


def evaluate(
    folder: RunDir,
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to evaluate on; unset: the test split.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run's routed adapters against the base model."""
    from fedrouter.cli.finished_run import read_finished
    from fedrouter.cli.progress import make_progress
    from fedrouter.cli.terminal import print_scores
    from fedrouter.data.client_data import run_splits, sample_test
    from fedrouter.data.loading import read_rows

    run = read_finished(folder)
    config = run.config
    notes: tuple[str, ...] = ()
    if data is None:
        test = run_splits(config, run.summary.get("data")).test
        rows = sample_test(test, config.evaluation.samples, config.seed)
    else:
        read = read_rows(data, config.data)
        rows, notes = read.test, read.notes
    with make_progress() as progress:
        for note in notes:
            progress.message(note)
        from fedrouter.inference.evaluate import evaluate_model
        from fedrouter.inference.routed_model import RoutedModel

        result = evaluate_model(RoutedModel.load(folder), rows, progress)
    if as_json:
        print(json.dumps(result))
        return
    print_scores("Scores on the rows", result["metrics"]["by_task"], SCOPES)
    _print_routing(run, result["routing"])


def _print_routing(run: "FinishedRun", routing: dict[str, Any]) -> None:
    """Print the accuracy of routing, and the tasks of rows that the run does not know."""
    unknown = ", ".join(routing["unknown_tasks"])
    if routing["accuracy"] is not None:
        of = "of the other prompts" if unknown else "of prompts"
        print(f"routing: {routing['accuracy']:.1%} {of} to the right task")
    if unknown:
        known = sorted({name for task in run.summary["tasks"] for name in task["true_tasks"]})
        print(f"tasks that the run was not trained on: {unknown}; it knows {', '.join(known)}")


def tasks(
    folder: RunDir,
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Nearest local prompts to show for each task.")
    ] = 3,
    as_json: AsJson = False,
) -> None:
    """Show the discovered tasks, their history, and the local prompts nearest to each."""
    from fedrouter.cli.finished_run import read_finished
    from fedrouter.inference.inspect import centroid_distances
    from fedrouter.routing.router import Router

    run = read_finished(folder)
    if not (folder / "router.json").exists():
        raise RunError(f"{folder}: strategy {run.config.strategy!r} finds no tasks")
    geometry = Router.load(folder).geometry
    near, note = {}, None
    if prompts:
        try:
            near = _nearest(run, folder, prompts)
        except DataError as error:  # the run may have come from another machine
            note = f"no prompts to show: {error}"
    found = {
        "tasks": run.summary["tasks"],
        "history": run.summary["history"],
        "distances": dict(zip(geometry.tasks, centroid_distances(geometry).tolist(), strict=True)),
        "prompts": near,
        "privacy": run.summary.get("privacy"),
    }
    if as_json:
        print(json.dumps(found))
    else:
        _print_tasks(found)
    if note:
        print(note, file=sys.stderr if as_json else sys.stdout)


def _nearest(run: "FinishedRun", folder: Path, number: int) -> dict[str, list[str]]:
    """Task -> the prompts of the data on this machine that are nearest to its centroid."""
    from fedrouter.cli.progress import make_progress
    from fedrouter.data.client_data import run_splits
    from fedrouter.inference.inspect import nearest_prompts

    rows = run_splits(run.config, run.summary.get("data")).train
    from fedrouter.inference.routed_model import RoutedModel

    with make_progress() as progress:
        return nearest_prompts(RoutedModel.load(folder), rows, number, progress)


def _print_tasks(found: dict[str, Any]) -> None:
    from fedrouter.cli.terminal import print_history, print_privacy, print_table, print_tasks

    print_tasks(found["tasks"])
    print_history(found["history"])
    distances = [[name, *row] for name, row in found["distances"].items()]
    print_table("Distances between centroids", ["task", *found["distances"]], distances)
    rows = [[task, one_line(text)] for task, texts in found["prompts"].items() for text in texts]
    if rows:
        print_table("Nearest prompts of the data on this machine", ["task", "prompt"], rows)
    print_privacy(found)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run folder, or that of a comparison.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write one HTML file with the tables and plots of a run or a comparison."""
    from fedrouter.cli.finished_run import read_finished

    if not (folder / "results.json").exists():
        read_finished(folder)
    from fedrouter.report import write_report

    path = write_report(folder)
    print(json.dumps({"report": str(path)}) if as_json else path)
