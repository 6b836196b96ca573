"""The results of a comparison's finished cells: `results.json`.

A JSON object::

    config     the configuration of all cells as TOML, without the grid
    cells      one entry for each finished cell: strategy, scenario, seed, run (its folder), local
               and global (scores, or null), by_task, bytes_up, bytes_down, seconds, tokens,
               simulated_s (null if time is not simulated), and evaluations: round, bytes so far,
               local and global of each evaluation
    summary    one entry for each strategy and scenario: kind, seeds (a number), {mean, sd} over the
               seeds of every score and cost, and vs_fedrouter: the difference in ROUGE-1 to
               FedRouter, paired by seed, {mean, low, high, n} for local and global
    equal_bytes  for each scenario with evaluations during training: the scores of each strategy
               at the same number of bytes (`comparison.equal_bytes`)
    over_tasks   for each scenario: the differences to FedRouter in ROUGE-1 and loss, paired by task
               (`comparison.over_tasks`)
    derived    interference, generalization, oracle_gap: relative differences in ROUGE-1, in %
    warnings   differences in trained tokens that make the comparison unfair
    failures   the cells that failed, with their reasons
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from fedrouter.comparison.equal_bytes import at_equal_bytes, evaluations
from fedrouter.comparison.grid import METHOD, SCOPES, Cell
from fedrouter.comparison.over_tasks import over_tasks
from fedrouter.comparison.statistics import paired_difference, spread
from fedrouter.config import scenario_names, strategy_names
from fedrouter.strategies import strategy_class

ORACLE = "oracle"
SCORES = ("rouge1", "rouge2", "rougeL", "exact_match", "loss")
COSTS = ("tokens", "bytes_up", "bytes_down", "seconds")
TOKEN_TOLERANCE = 0.05  # largest relative difference in trained tokens without a warning

_SHOWN_SCORES = ("rouge1", "rougeL", "exact_match", "loss")
CSV_COLUMNS = (
    "strategy",
    "scenario",
    "seed",
    *(f"{scope}_{score}" for scope in SCOPES for score in _SHOWN_SCORES),
    "bytes_up",
    "bytes_down",
    "seconds",
    "tokens",
    "simulated_s",
)

Kind = Literal["shared", "personalized", "reference"]
Entry = Mapping[str, Any]  # one of `cells`


def combine(
    config_toml: str,
    summaries: Mapping[Cell, Mapping[str, Any]],
    failures: Mapping[Cell, str],
    metrics: Mapping[Cell, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """The results of all finished cells.

    Args:
        config_toml: the configuration of all cells, without the grid.
        summaries: cell -> the summary of its run.
        failures: cell -> the reason of its failure.
        metrics: cell -> the metrics of its rounds, where they are known.
    """
    records = metrics or {}
    cells = [
        _entry(cell, summaries[cell], records.get(cell, ()))
        for cell in sorted(summaries, key=_order)
    ]
    return {
        "config": config_toml,
        "cells": cells,
        "summary": _summary(cells),
        "equal_bytes": at_equal_bytes(cells),
        "over_tasks": over_tasks(cells),
        "derived": {
            "interference": _gain(cells, "dual", "local", _rivals("shared", "personalized")),
            "generalization": _gain(cells, "single", "global", _rivals("personalized")),
            "oracle_gap": _oracle_gap(cells),
        },
        "warnings": _token_warnings(cells),
        "failures": [
            {**_names(cell), "reason": failures[cell]} for cell in sorted(failures, key=_order)
        ],
    }


def kind(strategy: str) -> Kind:
    """The kind of a strategy; "personalized": clients answer with personal adapters."""
    method = strategy_class(strategy)
    if method.reference:
        return "reference"
    return "personalized" if method.personalized else "shared"


def csv_row(cell: Entry) -> dict[str, Any]:
    """One cell as a row of results.csv; scores that were not measured are empty."""
    scores = {
        f"{scope}_{score}": (cell[scope] or {}).get(score, "")
        for scope in SCOPES
        for score in _SHOWN_SCORES
    }
    return {name: scores.get(name, cell.get(name)) for name in CSV_COLUMNS}


def _order(cell: Cell) -> tuple[int, int, int]:
    """The sort key: scenario and strategy in the order of the configuration, then seed."""
    return scenario_names().index(cell.scenario), strategy_names().index(cell.strategy), cell.seed


def _names(cell: Cell) -> dict[str, Any]:
    return {"strategy": cell.strategy, "scenario": cell.scenario, "seed": cell.seed}


def _entry(
    cell: Cell, summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    metrics, seconds = summary["metrics"], summary["seconds"]
    return {
        **_names(cell),
        "run": cell.run,
        "local": metrics["local"],
        "global": metrics["global"],
        "by_task": metrics["by_task"],
        "bytes_up": summary["bytes"]["up"],
        "bytes_down": summary["bytes"]["down"],
        "seconds": round(seconds["total"] - seconds["load"], 3),  # loading is shared by all cells
        "tokens": summary["tokens"],
        "simulated_s": summary.get("simulated_s"),
        "evaluations": evaluations(summary, records),
    }


def _summary(cells: Sequence[Entry]) -> list[dict[str, Any]]:
    pairs = dict.fromkeys((cell["strategy"], cell["scenario"]) for cell in cells)
    return [_pair(cells, strategy, scenario) for strategy, scenario in pairs]


def _pair(cells: Sequence[Entry], strategy: str, scenario: str) -> dict[str, Any]:
    """The summary of a strategy in a scenario over its seeds."""
    own = [c for c in cells if (c["strategy"], c["scenario"]) == (strategy, scenario)]
    return {
        "strategy": strategy,
        "scenario": scenario,
        "kind": kind(strategy),
        "seeds": len(own),
        **{scope: _spreads([cell[scope] for cell in own if cell[scope]]) for scope in SCOPES},
        **{cost: spread([cell[cost] for cell in own]) for cost in COSTS},
        "simulated_s": None
        if any(cell["simulated_s"] is None for cell in own)
        else spread([cell["simulated_s"] for cell in own]),
        "vs_fedrouter": None
        if strategy == METHOD
        else {
            scope: paired_difference(
                _rouge1(cells, strategy, scenario, scope), _rouge1(cells, METHOD, scenario, scope)
            )
            for scope in SCOPES
        },
    }


def _spreads(scores: Sequence[Mapping[str, float]]) -> dict[str, Any] | None:
    """Score -> mean and standard deviation; None without scores."""
    return {name: spread([each[name] for each in scores]) for name in SCORES} if scores else None


def _rouge1(cells: Iterable[Entry], strategy: str, scenario: str, scope: str) -> dict[int, float]:
    """Seed -> ROUGE-1."""
    return {
        cell["seed"]: cell[scope]["rouge1"]
        for cell in cells
        if (cell["strategy"], cell["scenario"]) == (strategy, scenario) and cell[scope]
    }


def _rivals(*kinds: Kind) -> list[str]:
    return [name for name in strategy_names() if name != METHOD and kind(name) in kinds]


def _gain(
    cells: Sequence[Entry], scenario: str, scope: str, rivals: Iterable[str]
) -> dict[str, Any]:
    """The relative gain of FedRouter's mean ROUGE-1 over that of the best rival, in %.

    Each rival is compared over the seeds that both have; the best rival is that with the smallest
    gain.
    """
    gains = [
        {"value": gain[0], "against": rival, "seeds": gain[1]}
        for rival in rivals
        if (gain := _relative(cells, METHOD, rival, scenario, scope))
    ]
    nothing = {"value": None, "against": None, "seeds": 0}
    return {
        "scenario": scenario,
        "scope": scope,
        **min(gains, key=lambda gain: gain["value"], default=nothing),
    }


def _oracle_gap(cells: Sequence[Entry]) -> dict[str, Any]:
    """The gap of FedRouter's mean ROUGE-1 to the oracle's, in % of the oracle's: the largest over
    scenarios and scopes, and the list of all."""
    gaps = [
        {"scenario": scenario, "scope": scope, "value": 0.0 - gap[0], "seeds": gap[1]}
        for scenario in dict.fromkeys(cell["scenario"] for cell in cells)
        for scope in SCOPES
        if (gap := _relative(cells, METHOD, ORACLE, scenario, scope))
    ]
    nothing = {"scenario": None, "scope": None, "value": None, "seeds": 0}
    largest = max(gaps, key=lambda gap: gap["value"], default=nothing)
    return {**largest, "against": ORACLE if gaps else None, "all": gaps}


def _relative(
    cells: Sequence[Entry], strategy: str, other: str, scenario: str, scope: str
) -> tuple[float, int] | None:
    """The relative difference in % of two strategies' mean ROUGE-1 over the seeds that both have,
    and the number of these seeds; None without such seeds, or if the other's ROUGE-1 is 0."""
    ours = _rouge1(cells, strategy, scenario, scope)
    theirs = _rouge1(cells, other, scenario, scope)
    seeds = ours.keys() & theirs.keys()
    if not seeds or not any(theirs[seed] for seed in seeds):
        return None
    mean = fmean(theirs[seed] for seed in seeds)
    return 100 * (fmean(ours[seed] for seed in seeds) / mean - 1), len(seeds)


def _token_warnings(cells: Sequence[Entry]) -> list[str]:
    """A warning for each scenario and seed with unequal numbers of trained tokens."""
    groups: dict[tuple[str, int], list[Entry]] = {}
    for cell in cells:
        groups.setdefault((cell["scenario"], cell["seed"]), []).append(cell)
    warnings = []
    for (scenario, seed), group in groups.items():
        fewest, most = (pick(group, key=lambda cell: cell["tokens"]) for pick in (min, max))
        if most["tokens"] > fewest["tokens"] * (1 + TOKEN_TOLERANCE):
            warnings.append(
                f"{scenario}, seed {seed}: trained tokens differ by more than "
                f"{TOKEN_TOLERANCE:.0%}: {fewest['strategy']} {fewest['tokens']:,}, "
                f"{most['strategy']} {most['tokens']:,}"
            )
    return warnings
