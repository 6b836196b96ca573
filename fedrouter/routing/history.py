"""What becomes of global tasks in a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """Something that became of a global task.

    Attributes:
        round: the round before it; 0 before the first.
        kind: "born": `task` is new, its adapter a copy of that of `other`; "merged": `task` is no
            more, it is a part of `other`; "emptied": it is no more, its samples went to others.
        task: its name.
        other: the name of another one, where there is one.
    """

    round: int
    kind: Literal["born", "merged", "emptied"]
    task: str
    other: str | None = None


def told(event: Mapping[str, Any]) -> str:
    """What became of a task, in words: an entry of `history` in `summary.json`."""
    if event["kind"] == "emptied":
        return "emptied: its samples went to others"
    words = {"born": "born, from a copy of", "merged": "merged into"}
    return f"{words[event['kind']]} {event['other']}"
