"""Training loss over what it costs: bytes and, if time is simulated, simulated seconds."""

from collections.abc import Callable, Mapping, Sequence
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
    blocks = [_figure("Training loss over bytes, up and down", runs, _megabytes, "MB")]
    if all(r.get("simulated_s") is not None for records in runs.values() for r in records):
        title = "Training loss over simulated time"
        blocks.append(_figure(title, runs, _seconds, "simulated seconds"))
    return blocks


def _megabytes(records: _Records) -> list[float]:
    """The bytes of all rounds up to each."""
    return list(accumulate((r["bytes_up"] + r["bytes_down"]) / MEGABYTE for r in records))


def _seconds(records: _Records) -> list[float]:
    return [record["simulated_s"] for record in records]


def _figure(
    title: str, runs: Mapping[str, _Records], cost: Callable[[_Records], list[float]], x: str
) -> str:
    """The loss of each run over its costs, in the rounds with updates."""
    drawn = {
        name: [
            (spent, record["loss"])
            for spent, record in zip(cost(records), records, strict=True)
            if record["loss"] is not None
        ]
        for name, records in runs.items()
    }
    return figure(title, figures.lines(drawn, x, "nats per token", whole=False))
