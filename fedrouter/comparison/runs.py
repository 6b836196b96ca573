"""Finished runs beside one another, whatever made them: `fedrouter compare-runs`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrouter.comparison.tables import NOTHING, SCORES, Table
from fedrouter.config import config_table, load_resolved
from fedrouter.config.differences import leaves
from fedrouter.errors import RunError
from fedrouter.storage.run_folder import RunFolder

SCOPES = {"global": "all tasks", "local": "own tasks"}
SHOWN_SCORES = ("rouge1", "exact_match")
COPIED = ("strategy", "scenario", "seed", "rounds", "clients", "tokens", "bytes", "seconds")


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """What `fedrouter compare-runs --json` prints.

    Args:
        folders: at least two folders of finished runs.

    Returns:
        `runs`: for each, `name` (unique), `folder`, the number of `tasks`, the accuracy of
        `routing` and, as in `summary.json`, `metrics`, `tokens`, `bytes`, `seconds` and others.
        `settings`: full name of a key -> its value in each run, of the keys that differ; None is
        an unset one. `warnings`: why scores do not compare, one line each.

    Raises:
        RunError: there are fewer than two, or one is not the folder of a finished run.
        ConfigError: the configuration of one is damaged.
    """
    if len(folders) < 2:
        raise RunError("compare-runs needs two run folders or more")
    summaries, configs = [], []
    for folder in folders:
        run = RunFolder.open(folder)
        summaries.append(run.read_summary())
        configs.append(dict(leaves(config_table(load_resolved(run.path / "config.toml")))))
    entries = [
        {"name": name, "folder": str(folder), **_entry(summary)}
        for name, folder, summary in zip(_names(folders), folders, summaries, strict=True)
    ]
    return {
        "runs": entries,
        "settings": _differing(configs),
        "warnings": list(_warnings(summaries)),
    }


def run_tables(found: Mapping[str, Any]) -> list[Table]:
    """The result of `compare_runs` as tables: settings, scores by task, costs."""
    runs = found["runs"]
    names = tuple(run["name"] for run in runs)
    settings = [(key, *map(_setting, values)) for key, values in found["settings"].items()]
    scores = [
        Table(f"{SCORES[score]}, {title}", ("task", *names), rows, ())
        for scope, title in SCOPES.items()
        for score in SHOWN_SCORES
        if (rows := tuple(_score_rows(runs, scope, score)))
    ]
    return [
        *(
            [Table("Settings that differ", ("key", *names), tuple(settings), ())]
            if settings
            else []
        ),
        *scores,
        Table("Costs", ("", *names), tuple(_cost_rows(runs)), ()),
    ]


def _entry(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: summary[key] for key in COPIED},
        "tasks": len(summary["tasks"]),
        "metrics": summary["metrics"],
        "routing": summary["routing"]["accuracy"],
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """The names of the folders; their whole paths where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [config.get(key) for config in configs] for key in keys}
    return {key: own for key, own in values.items() if any(one != own[0] for one in own)}


def _warnings(summaries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    same = {
        "data": "the runs have other data, or keep them elsewhere: their scores may not compare",
        "base_fingerprint": "the runs have other base models",
    }
    for key, text in same.items():
        if len({summary.get(key) for summary in summaries}) > 1:
            yield text


def _score_rows(
    runs: Sequence[Mapping[str, Any]], scope: str, score: str
) -> Iterator[tuple[str, ...]]:
    """A row for each task that a run names, and one for all rows; none if no run has the score."""
    tables = [run["metrics"]["by_task"] or {} for run in runs]
    for task in sorted({task for table in tables for task in table}):
        values = [table.get(task, {}).get(scope, {}).get(score) for table in tables]
        if any(value is not None for value in values):
            yield task, *map(_number, values)
    means = [(run["metrics"][scope] or {}).get(score) for run in runs]
    if any(value is not None for value in means):
        yield "all rows", *map(_number, means)


def _cost_rows(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    shown = {
        "trained tokens": [f"{run['tokens']:,}" for run in runs],
        "MB from clients": [f"{run['bytes']['up'] / 1e6:.2f}" for run in runs],
        "MB to clients": [f"{run['bytes']['down'] / 1e6:.2f}" for run in runs],
        "seconds": [f"{run['seconds']['total']:.1f}" for run in runs],
        "rounds": [str(run["rounds"]) for run in runs],
        "tasks": [str(run["tasks"] or NOTHING) for run in runs],
        "routing accuracy": [_number(run["routing"]) for run in runs],
    }
    for label, values in shown.items():
        yield label, *values


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _setting(value: Any) -> str:
    return "unset" if value is None else str(value)
