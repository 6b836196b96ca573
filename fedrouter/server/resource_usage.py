"""Wall time, tokens and memory of a run."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MIB = 2**20  # bytes
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss: getrusage(2)


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


def peak_rss_mb() -> float | None:
    """The largest resident memory of this process in MiB; None without getrusage (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / MIB
