"""Differences to FedRouter over tasks: an interval even where there is a single seed.

The tasks are the sample: the interval tells whether a difference would hold for other tasks like
these, not whether it would hold for other seeds. Each task counts with its mean over the seeds that
both strategies have.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedrouter.comparison.grid import METHOD, SCOPES
from fedrouter.comparison.statistics import paired_difference

Entry = Mapping[str, Any]
SCORES = ("rouge1", "loss")


def over_tasks(cells: Sequence[Entry]) -> list[dict[str, Any]]:
    """For each scenario with cells of FedRouter and of others, evaluated by task: `scenario` and
    `strategies`, each with `strategy`, its number of `seeds`, and for each scope the differences
    {mean, low, high, n} in ROUGE-1 and loss, n being the number of tasks, or None.

    Args:
        cells: the entries of `results.combine`.
    """
    tables = []
    for scenario in dict.fromkeys(cell["scenario"] for cell in cells):
        runs: dict[str, dict[int, Entry]] = {}  # strategy -> seed -> scores by task
        for cell in cells:
            if cell["scenario"] == scenario and cell["by_task"]:
                runs.setdefault(cell["strategy"], {})[cell["seed"]] = cell["by_task"]
        ours = runs.pop(METHOD, {})
        rows = [
            _row(name, [theirs[seed] for seed in seeds], [ours[seed] for seed in seeds])
            for name, theirs in runs.items()
            if (seeds := sorted(theirs.keys() & ours.keys()))
        ]
        if rows:
            tables.append({"scenario": scenario, "strategies": rows})
    return tables


def _row(name: str, theirs: Sequence[Entry], ours: Sequence[Entry]) -> dict[str, Any]:
    return {
        "strategy": name,
        "seeds": len(theirs),
        **{
            scope: {
                score: paired_difference(_means(theirs, scope, score), _means(ours, scope, score))
                for score in SCORES
            }
            for scope in SCOPES
        },
    }


def _means(runs: Sequence[Entry], scope: str, score: str) -> dict[str, float]:
    """Task -> mean over the runs, of the tasks that all of them evaluated."""
    tasks = [task for task in runs[0] if all((run.get(task) or {}).get(scope) for run in runs)]
    return {task: fmean(run[task][scope][score] for run in runs) for task in tasks}
