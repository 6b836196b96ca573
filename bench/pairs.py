"""Alternating timings of two sides."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Pairs:
    """Wall times of both sides in seconds, one pair for each repetition."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Their time divided by ours: the median over the pairs."""
        return median(b / a for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest ratio of a pair."""
        ratios = [b / a for a, b in zip(self.ours, self.theirs, strict=True)]
        return min(ratios), max(ratios)

    def row(self) -> dict[str, float]:
        """Table cells: median seconds of both sides, the ratio, and its range."""
        low, high = self.spread
        return {
            "seconds": median(self.ours),
            "baseline seconds": median(self.theirs),
            "ratio": self.ratio,
            "lowest": low,
            "highest": high,
        }


Clock = Callable[[], float]


def timed(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    clock: Clock = time.perf_counter,
) -> Pairs:
    """Time two functions alternately, after one untimed call of each; each is first in half of the
    pairs. With one thread on a busy machine, `time.process_time` is the clock to take."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for repeat in range(-1, repeats):
        sides = [(0, ours), (1, theirs)]
        for side, run in sides if repeat % 2 else sides[::-1]:
            took = seconds_of(run, clock)
            if repeat >= 0:
                seconds[side].append(took)
    return Pairs(tuple(seconds[0]), tuple(seconds[1]))


def seconds_of(run: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds of one call, of wall time by default, with the work that it queues on a GPU."""
    gc.collect()
    _wait()
    began = clock()
    run()
    _wait()
    return clock() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
