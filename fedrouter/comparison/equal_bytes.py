"""Strategies at equal bytes: their scores when they had sent the same.

A run that is evaluated during training (`evaluation.every`) has scores at several numbers of bytes.
Each cell counts with its last evaluation up to a common number of bytes, which is the smallest
total of a strategy that sends anything. Bytes are those of profiles and rounds, in both directions,
with what evaluations during training send, and without the final evaluation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fedrouter.comparison.grid import SCOPES
from fedrouter.comparison.statistics import spread

Entry = Mapping[str, Any]


def evaluations(
    summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """All evaluations of a run, in order.

    Args:
        summary: of the run.
        records: its metrics, one for each round.

    Returns:
        For each: `round`, `bytes` sent up to the end of that round, and the scores `local` and
        `global`, or None. The last is the final evaluation.
    """
    total = summary["bytes"]["up"] + summary["bytes"]["down"]
    sent = [record["bytes_up"] + record["bytes_down"] for record in records]
    found = []
    for index, record in enumerate(records):
        if evaluation := record.get("evaluation"):  # of the state before this record's round
            spent = total - sum(sent[index:])
            found.append(_entry(evaluation["round"], spent, evaluation["metrics"]))
    return [*found, _entry(summary["rounds"], total, summary["metrics"])]


def at_equal_bytes(cells: Sequence[Entry]) -> list[dict[str, Any]]:
    """For each scenario in which a run was evaluated during training: `scenario`, the common number
    of `bytes`, and `strategies`.

    A strategy has `strategy`, its number of `seeds`, and {mean, sd} over them of `round`, `bytes`
    and, for each scope, of the scores that were measured, or None. One that has no evaluation up to
    the common number of bytes is left out.

    Args:
        cells: the entries of `results.combine`.
    """
    scenarios = dict.fromkeys(cell["scenario"] for cell in cells)
    tables = []
    for scenario in scenarios:
        own = [cell for cell in cells if cell["scenario"] == scenario]
        totals = [cell["evaluations"][-1]["bytes"] for cell in own]
        if any(len(cell["evaluations"]) > 1 for cell in own) and any(totals):
            limit = min(total for total in totals if total)
            tables.append({"scenario": scenario, "bytes": limit, "strategies": _rows(own, limit)})
    return tables


def _rows(cells: Sequence[Entry], limit: int) -> list[dict[str, Any]]:
    rows = []
    for strategy in dict.fromkeys(cell["strategy"] for cell in cells):
        fitting = [
            [one for one in cell["evaluations"] if one["bytes"] <= limit]
            for cell in cells
            if cell["strategy"] == strategy
        ]
        last = [found[-1] for found in fitting if found]
        if last:
            rows.append(
                {
                    "strategy": strategy,
                    "seeds": len(last),
                    "round": spread([one["round"] for one in last]),
                    "bytes": spread([one["bytes"] for one in last]),
                    **{scope: _spreads([one[scope] for one in last]) for scope in SCOPES},
                }
            )
    return rows


def _spreads(scores: Sequence[Mapping[str, float] | None]) -> dict[str, Any] | None:
    measured = [one for one in scores if one]
    if not measured:
        return None
    return {name: spread([one[name] for one in measured]) for name in measured[0]}


def _entry(round: int, spent: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {"round": round, "bytes": spent, **{scope: metrics[scope] for scope in SCOPES}}
