"""The command line. Everything heavy is imported inside the commands, so that --help is instant."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrouter.cli.encoding import replace_unprintable
from fedrouter.cli.export import export
from fedrouter.cli.serve import serve
from fedrouter.errors import (
    OUT_OF_MEMORY,
    DataError,
    FedRouterError,
    RunError,
    TrainingError,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from fedrouter.inference.routed_model import Route
    from fedrouter.progress import Progress

CONTESTANTS = {"base": "base", "global": "routed"}
DEMO_LABEL = "fedrouter demo"  # only runs with this label are replaced

app = typer.Typer(
    help="Federated fine-tuning in which every task, not every client, gets its own adapter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
deploy = typer.Typer(help="Set up a federation over several machines.", no_args_is_help=True)
app.add_typer(deploy, name="deploy")
app.command()(export)

RunDir = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]
Prompts = Annotated[
    list[str], typer.Argument(metavar="PROMPT...", help="Prompts; - reads one per line from stdin.")
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
        Path | None,
        typer.Argument(metavar="CONFIG.toml", help="Configuration; every key has a default."),
    ] = None,
    set_: Sets = [],  # noqa: B006 - typer reads the default, nobody changes it
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Run folder; default: runs/STRATEGY-SEED-TIME."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where clients run: inprocess, or flower's simulation."),
    ] = None,
) -> None:
    """Discover the tasks in the clients' data and train an adapter for each."""
    from fedrouter.config import load_config
    from fedrouter.experiment import Experiment
    from fedrouter.storage.run_folder import RunFolder, new_run_path

    named = [] if engine is None else [f"engine.name={engine}"]
    settings = load_config(config, [*set_, *named])
    if output is not None:
        RunFolder.check_free(output)  # before the base model and the data are loaded
    experiment = Experiment(settings)
    path = output or new_run_path(experiment.config.strategy, experiment.config.seed)
    with _progress(f"fedrouter resume {path}") as progress:
        experiment.progress = progress
        summary = experiment.run(path)
    _show_summary(path, summary)


@app.command()
def compare(  # noqa: PLR0917 - each is an option of the command
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.toml", help="Configuration; every key has a default."),
    ] = None,
    set_: Sets = [],  # noqa: B006 - typer reads the default, nobody changes it
    strategies: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Strategies; sets compare.strategies.")
    ] = None,
    scenarios: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Scenarios; sets compare.scenarios.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="1,2,...", help="Seeds; sets compare.seeds.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder; default: runs/compare-CONFIG."),
    ] = None,
) -> None:
    """Run every strategy in every scenario with every seed, and put them side by side.

    The same command continues a stopped comparison; with other strategies, scenarios or seeds it
    extends the comparison.
    """
    from fedrouter.cli.terminal import print_table
    from fedrouter.comparison import compare as run_grid
    from fedrouter.comparison import notes, tables
    from fedrouter.config import load_config

    lists = {"strategies": strategies, "scenarios": scenarios, "seeds": seeds}
    grid = [f"compare.{key}={_toml_list(text)}" for key, text in lists.items() if text is not None]
    settings = load_config(config, [*set_, *grid])
    path = output or Path("runs") / ("compare" if config is None else f"compare-{config.stem}")
    command = f"fedrouter {shlex.join(sys.argv[1:])}"
    with _progress(command, keep=False) as progress:
        results = run_grid(settings, path, progress)
    for table in tables(results):
        print_table(table.title, table.columns, table.rows, table.below)
    for note in notes(results):
        print(note)
    print(f"{len(results['cells'])} cells are finished; tables and figures: {path}/results.*")
    if results["failures"]:
        raise typer.Exit(1)


@app.command()
def resume(folder: RunDir) -> None:
    """Continue a stopped run from its last finished round."""
    from fedrouter.experiment import resume as resume_experiment
    from fedrouter.storage.run_folder import RunFolder

    run_folder = RunFolder.open(folder)
    if run_folder.finished:
        run_folder.read_summary()  # raises a RunError if it is damaged
        print(f"{folder} is finished; nothing to resume")
        return
    with _progress(f"fedrouter resume {folder}") as progress:
        summary = resume_experiment(folder, progress)
    _show_summary(folder, summary)


@app.command()
def evaluate(
    folder: RunDir,
    data: Annotated[
        Path | None, typer.Option("--data", help="Rows to evaluate on; unset: the test split.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run's routed adapters against the base model."""
    from fedrouter.cli.terminal import make_progress, print_scores
    from fedrouter.data.client_data import sample_test
    from fedrouter.data.loading import load_splits, read_rows
    from fedrouter.inference.evaluate import evaluate_model
    from fedrouter.inference.routed_model import RoutedModel

    model = RoutedModel.load(folder)
    settings = model.config.data
    if data is None:
        test = load_splits(settings, model.config.seed).test
        rows = sample_test(test, model.config.evaluation.samples, model.config.seed)
        notes: tuple[str, ...] = ()
    else:
        read = read_rows(data, settings)
        rows, notes = read.test, read.notes
    with make_progress() as progress:
        for note in notes:
            progress.message(note)
        result = evaluate_model(model, rows, progress)
    if as_json:
        print(json.dumps(result))
        return
    print_scores("Scores on the rows", result["metrics"]["by_task"], CONTESTANTS)
    if result["routing"]["accuracy"] is not None:
        print(f"routing: {result['routing']['accuracy']:.1%} of prompts to the right task")


@app.command()
def route(
    folder: RunDir, prompts: Prompts, as_json: AsJson = False, client: OfClient = None
) -> None:
    """Show the task that each prompt is routed to."""
    from fedrouter.inference.routed_model import RoutedModel

    texts = _read_prompts(prompts)
    for decision in RoutedModel.load(folder).route(texts, client):
        if as_json:
            print(json.dumps(asdict(decision)))
        else:
            print(f"{_task(decision)}  {_one_line(decision.prompt)}")


@app.command()
def generate(
    folder: RunDir,
    prompts: Prompts,
    as_json: AsJson = False,
    client: OfClient = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="Longest answer; unset: as in the run."),
    ] = None,
) -> None:
    """Answer each prompt with the adapter of its task."""
    from fedrouter.inference.routed_model import RoutedModel

    texts = _read_prompts(prompts)
    for answer in RoutedModel.load(folder).generate(texts, max_new_tokens, client):
        if as_json:
            print(json.dumps(asdict(answer)))
        else:
            print(f"[{_task(answer)}] {_one_line(answer.prompt)}")
            print(f"  -> {answer.text}")


app.command()(serve)


@app.command()
def tasks(
    folder: RunDir,
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Nearest local prompts to show for each task.")
    ] = 3,
) -> None:
    """Show the discovered tasks, their history, and the local prompts nearest to each."""
    from fedrouter.cli.terminal import make_progress, print_history, print_table, print_tasks
    from fedrouter.inference.inspect import centroid_distances, nearest_prompts
    from fedrouter.inference.routed_model import RoutedModel

    model = RoutedModel.load(folder)
    if model.router is None:
        raise RunError(f"{folder}: strategy {model.config.strategy!r} finds no tasks")
    print_tasks(model.tasks)
    print_history(model.history)
    names = model.router.geometry.tasks
    distances = centroid_distances(model.router.geometry).tolist()
    print_table(
        "Distances between centroids",
        ["task", *names],
        [[name, *row] for name, row in zip(names, distances, strict=True)],
    )
    if prompts:
        try:
            with make_progress() as progress:
                near = nearest_prompts(model, prompts, progress)
        except DataError as error:  # the run may have come from another machine
            print(f"no prompts to show: {error}")
            return
        rows = [[task, _one_line(text)] for task, texts in near.items() for text in texts]
        print_table("Nearest prompts of the data on this machine", ["task", "prompt"], rows)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run folder, or that of a comparison.")
    ],
) -> None:
    """Write one HTML file with the tables and plots of a run or a comparison."""
    from fedrouter.report import write_report

    print(write_report(folder))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder.")] = Path("runs/demo"),
) -> None:
    """Compare routed adapters with one averaged adapter on the built-in tasks."""
    from fedrouter.cli.demo import show_story
    from fedrouter.config import load_config
    from fedrouter.experiment import Experiment
    from fedrouter.storage.run_folder import RunFolder

    packaged = Path(str(resources.files("fedrouter") / "assets" / "demo.toml"))
    averaged = output.with_name(output.name + "-fedavg")
    for path, settings in ((output, []), (averaged, ["strategy=fedavg"])):
        RunFolder.check_free(path, DEMO_LABEL)
        experiment = Experiment(load_config(packaged, settings))
        with _progress(f"fedrouter resume {path}") as progress:
            experiment.progress = progress
            progress.message(f"strategy {experiment.config.strategy}, run folder {path}")
            experiment.run(path, label=DEMO_LABEL)
    show_story(output, averaged)


@deploy.command("init")
def deploy_init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or an empty folder.")],
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of nodes.")],
    host: Annotated[
        str, typer.Option("--host", help="Name or IPv4 address under which nodes reach the server.")
    ],
    port: Annotated[int, typer.Option("--port", help="Port that the nodes connect to.")] = 8000,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="No gate (nginx): everyone on the port may start runs."),
    ] = False,
) -> None:
    """Write the certificates, keys, settings and start commands of a federation with Flower."""
    from fedrouter.deploy import init_deployment

    init_deployment(folder, nodes=nodes, host=host, port=port, direct=direct)
    print(f"which files go where, and what to do next: {folder / 'README.md'}")


@contextmanager
def _progress(command: str, keep: bool = True) -> Iterator["Progress"]:
    """Show progress within the block; if it is interrupted or terminated, print the command that
    continues it."""
    from fedrouter.cli.signals import Terminated, raised_as_exception
    from fedrouter.cli.terminal import make_progress

    try:
        with raised_as_exception(), make_progress(keep) as progress:
            yield progress
    except (KeyboardInterrupt, Terminated) as error:
        print(f"\nstopped; continue with: {command}", file=sys.stderr)
        raise typer.Exit(143 if isinstance(error, Terminated) else 130) from None


def _show_summary(path: Path, summary: dict[str, Any]) -> None:
    from fedrouter.cli.terminal import print_routing, print_scores, print_tasks

    if summary["tasks"]:
        print_tasks(summary["tasks"])
    metrics = summary["metrics"]
    if metrics["global"]:
        by_task = metrics["by_task"] or {"all": metrics}
        print_scores("Scores on the test rows", by_task, CONTESTANTS)
    print_routing(summary["routing"])
    print(f"{summary['seconds']['total']:.0f} s; run folder: {path}")


def _read_prompts(prompts: list[str]) -> list[str]:
    """The prompts of the command line, with - replaced by the lines of standard input.

    Blank lines are left out; a prompt of several lines is given as an argument.
    """
    read: list[str] = []
    for prompt in prompts:
        try:
            prompt.encode()
            text = sys.stdin.buffer.read().decode() if prompt == "-" else None
        except UnicodeError as error:
            where = "standard input" if prompt == "-" else "a prompt"
            raise DataError(f"{where} is not UTF-8 text ({error}); convert it first") from error
        read += [prompt] if text is None else [line for line in text.split("\n") if line.strip()]
    if not read or not all(prompt.strip() for prompt in read):
        raise DataError("there is no prompt, or an empty one; give the text to answer")
    return [prompt.rstrip("\r") for prompt in read]


def _toml_list(text: str) -> str:
    """The parts of a text with commas, as a TOML list."""
    parts = [part.strip() for part in text.split(",")]
    return json.dumps([int(part) if part.isdecimal() else part for part in parts])


def _task(route: "Route") -> str:
    """The task of a prompt and the confidence, or "unknown task" if it is out of distribution."""
    return f"{route.task}  {route.confidence:.2f}" if route.known else "unknown task"


def _one_line(text: str, width: int = 90) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= width else joined[: width - 1] + "…"


def main() -> None:
    """Entry point: an error is one line; exit code 2, or 1 for a run that trained nothing.

    A lack of memory is named as such, whatever library says so.
    """
    # Threads that spin while they wait slow a run down as soon as other processes need a core: with
    # one other busy process on two cores, the demo did not finish in ten minutes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    replace_unprintable()
    try:
        app()
    except FedRouterError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1 if isinstance(error, TrainingError) else 2) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {OUT_OF_MEMORY}", file=sys.stderr)
        raise SystemExit(2) from None
