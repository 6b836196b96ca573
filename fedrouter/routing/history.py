"""Events in the history of global tasks: created, merged, removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """A change of the set of global tasks.

    Attributes:
        round: the last finished round before the event; 0: before the first round.
        kind: "created": `task` is new, and its adapter started as a copy of the adapter of `other`;
            "merged": `task` was merged into `other`; "removed": `task` had no samples left.
        task: the task's name.
        other: the name of the other task involved; None if there is none.
    """

    round: int
    kind: Literal["created", "merged", "removed"]
    task: str
    other: str | None = None


def describe_event(event: Mapping[str, Any]) -> str:
    """A readable description of an entry of `history` in `summary.json`."""
    if event["kind"] == "removed":
        return "removed (no samples left)"
    words = {"created": "created, initialized from", "merged": "merged into"}
    return f"{words[event['kind']]} {event['other']}"
