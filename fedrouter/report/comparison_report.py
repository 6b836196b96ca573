"""The report of a comparison."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrouter.comparison.tables import Table, notes, tables
from fedrouter.config import load_resolved
from fedrouter.errors import FedRouterError, RunError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.report import figures
from fedrouter.report.costs import loss_over_costs
from fedrouter.report.embedding_map import load_shared_model
from fedrouter.report.page import Section, figure, page, table
from fedrouter.report.run_report import bytes_per_round, confusion, map_section
from fedrouter.storage.run_folder import RunFolder

SCOPES = {"local": "clients' own tasks (local)", "global": "all tasks (global)"}

Cells = Sequence[Mapping[str, Any]]


def comparison_report(path: Path) -> str:
    """The HTML of a comparison with at least one finished cell.

    Raises:
        RunError: there is none.
    """
    results = json.loads((path / "results.json").read_bytes())
    cells: Cells = results["cells"]
    if not cells:
        raise RunError(
            f"{path} has no finished run yet; continue the comparison, then write the report"
        )
    scenarios = list(dict.fromkeys(cell["scenario"] for cell in cells))
    seeds = sorted({cell["seed"] for cell in cells})
    lead = (
        f"{len(cells)} cells: scenarios {', '.join(scenarios)}; seeds {', '.join(map(str, seeds))}"
    )
    sections = [Section("In short", [], lines=notes(results))]
    shared_model: list[SharedModel] = []
    for scenario in scenarios:
        own = [cell for cell in cells if cell["scenario"] == scenario]
        sections += _scenario(path, scenario, own, results, shared_model)
    return page(f"fedrouter comparison {path.name}", lead, sections, results["config"])


def _scenario(
    path: Path,
    scenario: str,
    cells: Cells,
    results: Mapping[str, Any],
    shared_model: list[SharedModel],
) -> Iterator[Section]:
    """The sections of one scenario. The base model is loaded once, into `shared_model`."""
    summary = [one for one in results["summary"] if one["scenario"] == scenario]
    first = {one["strategy"]: one for one in reversed(cells)}  # the first seed's
    runs = {name: RunFolder(path / cell["run"]) for name, cell in first.items()}
    names = [one["strategy"] for one in summary if one["strategy"] in runs]
    records = {name: runs[name].read_metrics() for name in names}
    shown = [one for one in tables(results) if one.title.startswith(f"{scenario}:")]
    yield Section(f"Scenario {scenario}", [_as_html(one) for one in shown])
    scores = {
        label: [one[scope]["rouge1"]["mean"] if one[scope] else 0.0 for one in summary]
        for scope, label in SCOPES.items()
    }
    losses = {
        name: [(r["round"], r["loss"]) for r in records[name] if r["loss"] is not None]
        for name in names
    }
    yield Section(
        f"Scenario {scenario}: strategies",
        [
            figure("ROUGE-1, mean over seeds", figures.bars(names, scores, "ROUGE-1")),
            figure("Training loss", figures.lines(losses, "round", "nats per token")),
            figure("Bytes per round, up and down", bytes_per_round(records)),
            *loss_over_costs(records),
            *_by_task(first, names),
        ],
    )
    if "fedrouter" in runs:
        run = runs["fedrouter"]
        yield Section(
            f"Scenario {scenario}: routing of the first FedRouter run",
            confusion(run.read_summary()["routing"]),
        )
        section = _map(run, shared_model)
        yield Section(f"Scenario {scenario}: map", section.blocks, section.text, section.lines)


def _map(run: RunFolder, shared_model: list[SharedModel]) -> Section:
    if not shared_model:
        try:
            shared_model.append(load_shared_model(load_resolved(run.path / "config.toml")))
        except FedRouterError:
            return map_section(run)  # says why
    return map_section(run, shared_model[0])


def _by_task(cells: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    """A table of ROUGE-1 by task for each scope."""
    if any(not cells[name]["by_task"] for name in names):
        return
    tasks = list(cells[names[0]]["by_task"])
    for scope, label in SCOPES.items():
        rows = [
            [name, *(cells[name]["by_task"][task].get(scope, {}).get("rouge1") for task in tasks)]
            for name in names
        ]
        yield table(["ROUGE-1", *tasks], rows, f"By task, first seed, {label}")


def _as_html(shown: Table) -> str:
    rule = [("references", *[""] * (len(shown.columns) - 1))] if shown.below else []
    return table(shown.columns, [*shown.rows, *rule, *shown.below], shown.title)
