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
            more, it is a part of `other`.
        task: its name.
        other: the name of another one.
    """

    round: int
    kind: Literal["born", "merged"]
    task: str
    other: str


def told(event: Mapping[str, Any]) -> str:
    """What became of a task, in words: an entry of `history` in `summary.json`."""
    words = {"born": "born, from a copy of", "merged": "merged into"}
    return f"{words[event['kind']]} {event['other']}"
