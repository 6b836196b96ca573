"""The command line. Everything heavy is imported inside the commands, so that --help is instant."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrouter.errors import FedRouterError

if TYPE_CHECKING:
    from fedrouter.progress import Progress

app = typer.Typer(
    help="Federated fine-tuning in which every task, not every client, gets its own adapter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]
Prompts = Annotated[
    list[str], typer.Argument(metavar="PROMPT...", help="Prompts; - reads one a line from stdin.")
]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Set a configuration key; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OfClient = Annotated[
    int | None,
    typer.Option("--client", help="Route among this client's own tasks only (scope local)."),
]


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.toml]", help="Configuration; see docs.")
    ] = None,
    set_: Sets = [],  # noqa: B006 - typer reads the default, nobody changes it
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Run folder.  [default: runs/STRATEGY-SEED-TIME]"),
    ] = None,
) -> None:
    """Find the tasks in the clients' data and train an adapter for each."""
    from fedrouter.config import load_config
    from fedrouter.experiment import Experiment
    from fedrouter.store import new_run_path

    experiment = Experiment(load_config(config, set_))
    path = output or new_run_path(experiment.config.strategy, experiment.config.seed)
    with _watched(path) as experiment.progress:
        summary = experiment.run(path)
    _show_summary(path, summary)


@app.command()
def resume(folder: RunDir) -> None:
    """Go on with a run that was stopped, from its last finished round."""
    from fedrouter.experiment import resume as resume_experiment
    from fedrouter.store import RunFolder

    if RunFolder.open(folder).finished:
        print(f"{folder} is finished; nothing to resume")
        return
    with _watched(folder) as progress:
        summary = resume_experiment(folder, progress)
    _show_summary(folder, summary)


@app.command()
def evaluate(
    folder: RunDir,
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to evaluate on.  [default: the test split]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run's routed adapters against the base model."""
    from fedrouter.assessment import assess
    from fedrouter.console import make_progress, print_scores
    from fedrouter.datasets import load_splits, read_rows
    from fedrouter.inference import RoutedModel

    model = RoutedModel.load(folder)
    settings = model.config.data
    if data is None:
        rows = load_splits(settings, model.config.seed).test
    else:
        rows = read_rows(data, settings.columns)
    with make_progress() as progress:
        result = assess(model, rows, progress)
    if as_json:
        print(json.dumps(result))
        return
    print_scores(
        "Scores by task", result["metrics"]["by_task"], {"base": "base", "global": "routed"}
    )
    if result["routing"]["accuracy"] is not None:
        print(f"routing: {result['routing']['accuracy']:.1%} of prompts to the right task")


@app.command()
def route(
    folder: RunDir, prompts: Prompts, as_json: AsJson = False, client: OfClient = None
) -> None:
    """Say which task each prompt goes to."""
    from fedrouter.inference import RoutedModel

    for found in RoutedModel.load(folder).route(_read_prompts(prompts), client):
        if as_json:
            print(json.dumps(asdict(found)))
        else:
            print(f"{found.task}  {found.confidence:.2f}  {_one_line(found.prompt)}")


@app.command()
def generate(
    folder: RunDir,
    prompts: Prompts,
    as_json: AsJson = False,
    client: OfClient = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="[default: evaluation.max_new_tokens]"),
    ] = None,
) -> None:
    """Answer each prompt with the adapter of its task."""
    from fedrouter.inference import RoutedModel

    model = RoutedModel.load(folder)
    for found in model.generate(_read_prompts(prompts), max_new_tokens, client):
        if as_json:
            print(json.dumps(asdict(found)))
        else:
            print(f"[{found.task}  {found.confidence:.2f}] {_one_line(found.prompt)}")
            print(f"  -> {found.text}")


@app.command()
def tasks(
    folder: RunDir,
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Nearest local prompts to show for each task.")
    ] = 3,
) -> None:
    """Show the tasks that the server found, and this machine's prompts nearest to each."""
    from fedrouter.console import make_progress, print_table, print_tasks
    from fedrouter.inference import RoutedModel
    from fedrouter.inspection import centroid_distances, nearest_prompts

    model = RoutedModel.load(folder)
    print_tasks(model.found)
    names, distances = centroid_distances(model.router)
    print_table(
        "Distances between centroids",
        ["task", *names],
        [[name, *row] for name, row in zip(names, distances.tolist(), strict=True)],
    )
    if prompts:
        with make_progress() as progress:
            near = nearest_prompts(model, prompts, progress)
        rows = [[task, _one_line(text)] for task, texts in near.items() for text in texts]
        print_table("Nearest prompts of the data on this machine", ["task", "prompt"], rows)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder.")] = Path("runs/demo"),
) -> None:
    """Run the built-in tasks on the built-in base model, beside one averaged adapter."""
    from fedrouter.config import load_config
    from fedrouter.demo import show_story
    from fedrouter.experiment import run as run_experiment

    packaged = Path(str(resources.files("fedrouter") / "assets" / "demo.toml"))
    averaged = output.with_name(output.name + "-fedavg")
    for path, settings in ((output, []), (averaged, ["strategy=fedavg"])):
        with _watched(path) as progress:
            config = load_config(packaged, settings)
            progress.message(f"{config.strategy} into {path}")
            run_experiment(config, path, replace=True, progress=progress)
    show_story(output, averaged)


@contextmanager
def _watched(path: Path) -> Iterator["Progress"]:
    """Progress while a run is under way, and how to go on with it when it is interrupted."""
    from fedrouter.console import make_progress

    try:
        with make_progress() as progress:
            yield progress
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: fedrouter resume {path}", file=sys.stderr)
        raise typer.Exit(130) from None


def _show_summary(path: Path, summary: dict[str, Any]) -> None:
    from fedrouter.console import print_routing, print_scores, print_tasks

    print_tasks(summary["tasks"])
    if summary["metrics"]["by_task"]:
        print_scores(
            "Scores by task", summary["metrics"]["by_task"], {"base": "base", "global": "routed"}
        )
    print_routing(summary["routing"])
    print(f"{summary['seconds']['total']:.0f} s; run folder: {path}")


def _read_prompts(prompts: list[str]) -> list[str]:
    """The prompts of the command line, with - replaced by the lines of standard input."""
    lines: list[str] = []
    for prompt in prompts:
        lines += (
            [line for line in sys.stdin.read().splitlines() if line] if prompt == "-" else [prompt]
        )
    return lines


def _one_line(text: str, width: int = 90) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= width else joined[: width - 1] + "…"


def main() -> None:
    """Entry point: an error that a user can mend is one line and exit code 2."""
    try:
        app()
    except FedRouterError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
