"""Wall time and tokens of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class ResourceUsage:
    """Wall time by phase and trained tokens; stored in checkpoints, for totals after a resume.

    Attributes:
        seconds: phase -> wall time in seconds, and their sum as "total".
        tokens: number of tokens trained on.
    """

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("load", "profile", "train", "aggregate", "evaluate", "total"), 0.0
        )
    )
    tokens: int = 0

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to a phase and to the total."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - began)

    def add(self, phase: str, seconds: float) -> None:
        """Add time to a phase and to the total."""
        self.seconds[phase] += seconds
        self.seconds["total"] += seconds
