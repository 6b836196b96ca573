"""The report of one run."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedrouter.config import load_resolved
from fedrouter.errors import FedRouterError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.report import figures
from fedrouter.report.costs import loss_over_costs
from fedrouter.report.embedding_map import embedding_map, load_shared_model
from fedrouter.report.examples import examples_section
from fedrouter.report.page import Section, figure, page, table
from fedrouter.routing.history import describe_event
from fedrouter.server.summary import TASK_COLUMNS, task_rows
from fedrouter.storage.run_folder import RunFolder

SCOPES = {"base": "base model", "global": "all tasks (global)", "local": "own tasks (local)"}
SCORES = {"rouge1": "ROUGE-1", "rougeL": "ROUGE-L", "exact_match": "exact match", "loss": "loss"}


def run_report(run: RunFolder) -> str:
    """The HTML of a finished run.

    Raises:
        RunError: the run is not finished.
    """
    summary, records = run.read_summary(), run.read_metrics()
    configuration = (run.path / "config.toml").read_text(encoding="utf-8")
    lead = (
        f"strategy {summary['strategy']}, scenario {summary['scenario']}, seed {summary['seed']}, "
        f"{summary['clients']} clients, {summary['rounds']} rounds, "
        f"{summary['tokens']:,} trained tokens, "
        f"{summary['seconds']['total']:.0f}\N{NO-BREAK SPACE}s"
    )
    sections = [
        Section("Scores on the test rows", [_scores(summary["metrics"])]),
        Section("Learning", _curves(records, summary)),
        Section("By task", _by_task(summary["metrics"]["by_task"])),
        Section("Discovered tasks", _tasks(summary["tasks"])),
        Section("Tasks over time", _history(summary["history"], records)),
        map_section(run),
        Section("Routing", confusion(summary["routing"])),
        examples_section(run, summary["tasks"]),
        Section("Privacy", _privacy(summary.get("privacy"))),
        Section(
            "Costs",
            [
                figure("Bytes per round", bytes_per_round({"run": records})),
                *loss_over_costs({"loss": records}),
            ],
        ),
        Section("Clients that were late", _late(records)),
        Section("Clients that failed", _failures(records)),
    ]
    return page(f"fedrouter run {run.path.name}", lead, sections, configuration)


def map_section(run: RunFolder, shared_model: SharedModel | None = None) -> Section:
    """The map of the training prompts, or a line that says why it cannot be drawn."""
    title = "Map of the training prompts"
    try:
        base = shared_model or load_shared_model(load_resolved(run.path / "config.toml"))
        drawn = embedding_map(run, base)
    except FedRouterError as error:
        return Section(title, [], lines=[f"Not drawn: {error}"])
    centres = {task: [point] for task, point in drawn.centroids.items()}
    blocks = [
        figure(caption, figures.scatter(drawn.points, labels, centres))
        for caption, labels in (
            ("By true task", drawn.true_tasks),
            ("By discovered task", drawn.global_tasks),
        )
        if labels
    ]
    text = (
        "Embeddings of training prompts along their first two principal components. Crosses "
        "mark the centroids of the global tasks."
    )
    return Section(title, blocks, text)


def confusion(routing: Mapping[str, Any]) -> list[str]:
    """The routing confusion matrix; empty if the summary has none."""
    if not routing["confusion"]:
        return []
    drawn = figures.matrix(routing["confusion"], "true task", "routed to")
    caption = f"Test prompts of all clients, by task ({routing['accuracy']:.1%} right)"
    return [figure(caption, drawn)]


def bytes_per_round(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Megabytes per round: up and down apart for one run, summed for several."""
    series = {}
    for name, records in runs.items():
        directions: dict[str, tuple[str, ...]] = {name: ("bytes_up", "bytes_down")}
        if len(runs) == 1:
            directions = {"from clients": ("bytes_up",), "to clients": ("bytes_down",)}
        for direction, keys in directions.items():
            points = [(r["round"], sum(r[key] for key in keys) / 1e6) for r in records]
            series[direction] = points
    return figures.lines(series, "round", "MB")


def _scores(metrics: Mapping[str, Any]) -> str:
    rows = [
        [label, *(metrics[scope][score] for score in SCORES)]
        for scope, label in SCOPES.items()
        if metrics[scope]
    ]
    return table(["", *SCORES.values()], rows)


def _curves(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[str]:
    losses = [(r["round"], r["loss"]) for r in records if r["loss"] is not None]
    blocks = [figure("Training loss", figures.lines({"loss": losses}, "round", "nats per token"))]
    by_task = _losses(records)
    if len(by_task) > 1:
        blocks.append(
            figure("Training loss by task", figures.lines(by_task, "round", "nats per token"))
        )
    measured = [r["evaluation"] for r in records if "evaluation" in r]
    if measured:
        measured.append({"round": summary["rounds"], "metrics": summary["metrics"]})
        series = {
            scope: [(one["round"], one["metrics"][scope]["rouge1"]) for one in measured]
            for scope in ("local", "global")
            if all(one["metrics"][scope] for one in measured)
        }
        blocks.append(figure("ROUGE-1 on test rows", figures.lines(series, "round", "ROUGE-1")))
    return blocks


def _losses(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Adapter -> (round, loss); a run of before has none."""
    names = sorted({name for record in records for name in record.get("losses", ())})
    return {
        name: [(r["round"], r["losses"][name]) for r in records if name in r.get("losses", ())]
        for name in names
    }


def _by_task(by_task: Mapping[str, Any] | None) -> list[str]:
    if not by_task:
        return []
    blocks = []
    measured = {scope for scores in by_task.values() for scope in scores}
    for score in ("rouge1", "exact_match"):
        series = {
            label: [scores.get(scope, {}).get(score, 0.0) for scores in by_task.values()]
            for scope, label in SCOPES.items()
            if scope in measured  # a client of a deployment has no rows of others
        }
        blocks.append(figure(SCORES[score], figures.bars(list(by_task), series, SCORES[score])))
    return blocks


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = task_rows(tasks)
    return [table(TASK_COLUMNS, rows)] if rows else []


def _history(
    events: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The number of tasks over the rounds and their events; empty if there were none."""
    if not events:
        return []
    counts = [(record["round"], record["tasks"]) for record in records]
    rows = [[event["round"], event["task"], describe_event(event)] for event in events]
    return [
        figure("Number of tasks", figures.lines({"tasks": counts}, "round", "tasks")),
        table(["after round", "task", "event"], rows),
    ]


def _privacy(privacy: Mapping[str, Any] | None) -> list[str]:
    """The privacy budget, and how far adapters moved; empty without differential privacy."""
    if privacy is None:
        return []
    numbers = [f"{privacy[key]:g}" for key in ("epsilon", "spent", "delta", "releases")]
    columns = ["per", "epsilon", "epsilon spent", "delta", "releases"]
    blocks = [table(columns, [[privacy["unit"], *numbers]])]
    rows = [
        [name, ratio, "yes" if name in privacy["only_noise"] else "no"]
        for name, ratio in privacy["movement"].items()
    ]
    if rows:
        blocks.append(table(["adapter", "movement / noise", "only noise"], rows))
    return blocks


def _late(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The clients that were late, and the late replies that counted; a run of before has none."""
    rows = [
        [
            record["round"],
            ", ".join(map(str, record["late"])) or "-",
            ", ".join(f"{one['client']} (round {one['round']})" for one in record["late_replies"])
            or "-",
        ]
        for record in records
        if record.get("late") or record.get("late_replies")
    ]
    return [table(["round", "late", "late replies that count"], rows)] if rows else []


def _failures(records: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [record["round"], failure["client"], failure["reason"]]
        for record in records
        for failure in record["failures"]
    ]
    return [table(["round", "client", "reason"], rows)] if rows else []
