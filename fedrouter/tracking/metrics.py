"""Records and summaries of a run as flat metrics: name -> number."""

from collections.abc import Iterator, Mapping
from typing import Any

COUNTS = ("tokens", "tasks", "bytes_up", "bytes_down")  # of a round, under these names

Metrics = dict[str, float]


def round_metrics(record: Mapping[str, Any]) -> Iterator[tuple[int, Metrics]]:
    """A record of `metrics.jsonl` as (round, metrics).

    An evaluation is that of the state before the round, and comes first, with its own round.
    """
    if "evaluation" in record:
        yield record["evaluation"]["round"], dict(_scores(record["evaluation"]["metrics"]))
    metrics: Metrics = {f"round/{name}": record[name] for name in COUNTS}
    metrics |= {f"round/seconds/{phase}": value for phase, value in record["seconds"].items()}
    if record.get("simulated_s") is not None:
        metrics |= {"round/simulated_s": record["simulated_s"]}
    metrics |= {"round/failures": len(record["failures"]), "round/clients": len(record["clients"])}
    metrics |= {f"train/loss/{name}": loss for name, loss in record["losses"].items()}
    if record["loss"] is not None:
        metrics["train/loss"] = record["loss"]
    yield record["round"], {"train/lr": record["lr"], **metrics}


def final_metrics(summary: Mapping[str, Any]) -> Metrics:
    """The scores, the quality of routing and the costs in a `summary.json`."""
    routing = {name: summary["routing"][name] for name in ("accuracy", "ari", "nmi")}
    costs = {
        "tokens": summary["tokens"],
        **{f"bytes_{direction}": number for direction, number in summary["bytes"].items()},
        **{f"seconds/{phase}": seconds for phase, seconds in summary["seconds"].items()},
    }
    return {
        **dict(_scores(summary["metrics"])),
        **{f"routing/{name}": value for name, value in routing.items() if value is not None},
        **{f"total/{name}": value for name, value in costs.items()},
    }


def _scores(table: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The scores of a `server.summary.score_table`: test/SCOPE/SCORE and test/SCOPE/SCORE/TASK."""
    for scope in ("local", "global", "base"):
        for score, value in (table[scope] or {}).items():
            yield f"test/{scope}/{score}", value
    for task, by_scope in (table["by_task"] or {}).items():
        for scope, scores in by_scope.items():
            for score, value in scores.items():
                yield f"test/{scope}/{score}/{task}", value
