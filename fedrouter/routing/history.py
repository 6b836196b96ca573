"""What becomes of global tasks in a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """Something that became of a global task.

    Attributes:
        round: the round before it; 0 before the first.
        kind: "created": `task` is new, and its adapter began as a copy of that of `other`;
            "merged": `task` was merged into `other`; "removed": `task` has no samples left.
        task: its name.
        other: the name of another one, where there is one.
    """

    round: int
    kind: Literal["created", "merged", "removed"]
    task: str
    other: str | None = None


def describe_event(event: Mapping[str, Any]) -> str:
    """An entry of `history` in `summary.json`, in words."""
    if event["kind"] == "removed":
        return "removed (no samples left)"
    words = {"created": "created, initialized from", "merged": "merged into"}
    return f"{words[event['kind']]} {event['other']}"
