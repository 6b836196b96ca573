"""Training loss over what it costs: bytes and, if time is simulated, simulated seconds."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from fedrouter.report import figures
from fedrouter.report.page import figure

_Records = Sequence[Mapping[str, Any]]
MEGABYTE = 1e6


def loss_over_costs(runs: Mapping[str, _Records]) -> list[str]:
    """The figures of some runs.

    Args:
        runs: the name of each curve -> the records of its run.
    """
    drawn = {}
    for name, records in runs.items():
        sent = accumulate((r["bytes_up"] + r["bytes_down"]) / MEGABYTE for r in records)
        drawn[name] = _losses(records, list(sent))
    blocks = [_figure("Training loss over bytes, up and down", drawn, "MB")]
    times = {name: [r.get("simulated_s") for r in records] for name, records in runs.items()}
    if all(time is not None for own in times.values() for time in own):
        drawn = {name: _losses(records, times[name]) for name, records in runs.items()}
        blocks.append(_figure("Training loss over simulated time", drawn, "simulated seconds"))
    return blocks


def _figure(title: str, drawn: figures.Series, x: str) -> str:
    return figure(title, figures.lines(drawn, x, "nats per token", whole=False))


def _losses(records: _Records, costs: Sequence[float]) -> list[tuple[float, float]]:
    """(cost, loss) of the rounds with updates."""
    return [
        (cost, record["loss"])
        for cost, record in zip(costs, records, strict=True)
        if record["loss"] is not None
    ]
