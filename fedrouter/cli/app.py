"""The command line. Everything heavy is imported inside the commands, so that --help is instant."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrouter.cli.compare_runs import compare_runs
from fedrouter.cli.deploy import deploy
from fedrouter.cli.encoding import replace_unprintable
from fedrouter.cli.export import export
from fedrouter.cli.inspection import SCOPES, evaluate, report, tasks
from fedrouter.cli.options import AsJson, ConfigFile, RunDir, Sets
from fedrouter.cli.prompts import generate, route
from fedrouter.cli.serve import serve
from fedrouter.errors import OUT_OF_MEMORY, FedRouterError, TrainingError, is_out_of_memory

if TYPE_CHECKING:
    from fedrouter.config import Config
    from fedrouter.progress import Progress

DEMO_LABEL = "fedrouter demo"  # only runs with this label are replaced

app = typer.Typer(
    help="Federated fine-tuning in which every task, not every client, gets its own adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(deploy, name="deploy")


def _show_version(asked: bool) -> None:
    if asked:
        print(f"fedrouter {metadata.version('fedrouter')}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigFile = None,
    set_: Sets = [],  # noqa: B006 - typer reads the default, nobody changes it
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Run folder; default: runs/STRATEGY-SEED-TIME."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where clients run: inprocess, or flower's simulation."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Discover the tasks in the clients' data and train an adapter for each."""
    from fedrouter.config import load_config
    from fedrouter.experiment import Experiment
    from fedrouter.storage.run_folder import RunFolder, new_run_path

    named = [] if engine is None else [f"engine.name={engine}"]
    settings = load_config(config, [*set_, *named])
    path = output or new_run_path(settings.strategy, settings.seed)
    RunFolder.check_free(path)  # before the data and the base model are loaded
    with _progress(f"fedrouter resume {path}", folder=path) as progress:
        progress.message(_announcement(settings, path))
        summary = Experiment(settings, progress).run(path)
    _show_summary(path, summary, as_json)


@app.command()
def compare(  # noqa: PLR0917 - each is an option of the command
    config: ConfigFile = None,
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
    as_json: AsJson = False,
) -> None:
    """Run every strategy in every scenario with every seed, and put them side by side.

    The same command continues a stopped comparison; with other strategies, scenarios or seeds it
    extends the comparison.
    """
    from fedrouter.cli.terminal import print_table
    from fedrouter.config import load_config

    lists = {"strategies": strategies, "scenarios": scenarios, "seeds": seeds}
    grid = [f"compare.{key}={_toml_list(text)}" for key, text in lists.items() if text is not None]
    settings = load_config(config, [*set_, *grid])
    path = output or Path("runs") / ("compare" if config is None else f"compare-{config.stem}")
    from fedrouter.comparison import compare as run_grid
    from fedrouter.comparison import notes, tables

    command = f"fedrouter {shlex.join(sys.argv[1:])}"
    with _progress(command, keep=False) as progress:
        progress.message(f"comparison in {path}")
        results = run_grid(settings, path, progress)
    if as_json:
        print(json.dumps(results))
    else:
        for table in tables(results):
            print_table(table.title, table.columns, table.rows, table.below)
        for note in notes(results):
            print(note)
        print(f"{len(results['cells'])} cells are finished; tables and figures: {path}/results.*")
    if results["failures"]:
        raise typer.Exit(1)


@app.command()
def resume(folder: RunDir, as_json: AsJson = False) -> None:
    """Continue a stopped run from its last finished round."""
    from fedrouter.storage.run_folder import RunFolder

    run_folder = RunFolder.open(folder)
    if run_folder.finished:
        summary = run_folder.read_summary()  # raises a RunError if it is damaged
        print(json.dumps(summary) if as_json else f"{folder} is finished; nothing to resume")
        return
    run_folder.check_local()
    from fedrouter.experiment import resume as resume_experiment

    with _progress(f"fedrouter resume {folder}") as progress:
        progress.message(f"resuming {folder}")
        summary = resume_experiment(folder, progress)
    _show_summary(folder, summary, as_json)


for command in (compare_runs, evaluate, tasks, report, route, generate, serve, export):
    app.command()(command)


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
        config = load_config(packaged, settings)
        with _progress(f"fedrouter resume {path}", folder=path) as progress:
            progress.message(_announcement(config, path))
            Experiment(config, progress).run(path, label=DEMO_LABEL)
    show_story(output, averaged)


@contextmanager
def _progress(command: str, keep: bool = True, folder: Path | None = None) -> Iterator["Progress"]:
    """Show progress within the block; if it is interrupted or terminated, print the command that
    continues it.

    Args:
        command: the command that continues what the block does.
        keep: as for `make_progress`.
        folder: the run folder that the block makes; None: there is something to continue anyway.
    """
    from fedrouter.cli.progress import make_progress
    from fedrouter.cli.signals import Terminated, raised_as_exception

    try:
        with raised_as_exception(), make_progress(keep) as progress:
            yield progress
    except (KeyboardInterrupt, Terminated) as error:
        begun = folder is None or (folder / "config.toml").exists()
        remedy = f"continue with: {command}" if begun else "nothing has been written"
        print(f"\nstopped; {remedy}", file=sys.stderr)
        raise typer.Exit(143 if isinstance(error, Terminated) else 130) from None


def _announcement(config: "Config", path: Path) -> str:
    """What a run is about to do, before seconds go by with loading."""
    federation = config.federation
    return (
        f"strategy {config.strategy}, {federation.clients} clients, {federation.rounds} rounds; "
        f"run folder: {path}"
    )


def _show_summary(path: Path, summary: dict[str, Any], as_json: bool) -> None:
    """Print the summary of a finished run."""
    if as_json:
        print(json.dumps({"folder": str(path), **summary}))
        return
    from fedrouter.cli.terminal import print_privacy, print_routing, print_scores, print_tasks

    if summary["tasks"]:
        print_tasks(summary["tasks"])
    metrics = summary["metrics"]
    if metrics["global"]:
        by_task = metrics["by_task"] or {"all": metrics}
        print_scores("Scores on the test rows", by_task, SCOPES)
    if any(metrics.values()):  # evaluation is enabled
        print_routing(summary["routing"])
    print_privacy(summary)
    print(f"{summary['seconds']['total']:.0f} s; run folder: {path}")


def _toml_list(text: str) -> str:
    """The parts of a text with commas, as a TOML list."""
    parts = [part.strip() for part in text.split(",")]
    return json.dumps([int(part) if part.isdecimal() else part for part in parts])


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
