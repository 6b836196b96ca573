"""Progress on a terminal or in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from fedrouter.progress import Progress

LOG_EVERY_S = 10.0  # seconds between two log lines of a phase, at least
SPEED_PERIOD_S = 300.0  # over which the remaining time is estimated; steps may take a minute


class BarProgress(Progress):
    """Progress bars with loss and remaining time, for a terminal. A context manager.

    A phase that goes on after another one moves the bar that it has.

    Args:
        keep: whether the bars of finished phases stay on the screen.
        console: where the bars are shown; None: standard error.
    """

    def __init__(self, keep: bool = True, console: Console | None = None) -> None:
        self._keep = keep
        self._bars = Bars(
            TextColumn("{task.description:<15}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            expand=True,
            speed_estimate_period=SPEED_PERIOD_S,
        )
        self._tasks: dict[str, TaskID] = {}
        self._current: TaskID | None = None
        self._round = ""

    def __enter__(self) -> "BarProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def phase(self, name: str, total: int) -> None:
        """Start a new bar, or move on the one of a phase of this name."""
        if self._current is not None and not self._keep:
            self._bars.update(self._current, visible=False)
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, details="")
        self._current = self._tasks[name]
        task = self._bars.tasks[self._bars.task_ids.index(self._current)]
        if is_done(task.completed, task.total or 0):
            self._bars.reset(self._current, total=total, details="")
        else:
            self._bars.update(self._current, total=task.completed + total)
        self._bars.update(self._current, visible=True)

    def advance(self, steps: float) -> None:
        """Move the current bar."""
        if self._current is not None:
            self._bars.advance(self._current, steps)

    def round(self, number: int, of: int) -> None:
        """Note the round, which is shown with the loss."""
        self._round = f"round {number}/{of}, "

    def loss(self, value: float) -> None:
        """Show the round and the loss beside the current bar."""
        if self._current is not None:
            self._bars.update(self._current, details=f"{self._round}loss {value:.3f}")

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)


class LogProgress(Progress):
    """Progress as plain lines on standard error, for output to a file. A context manager."""

    def __init__(self) -> None:
        self._name, self._round, self._loss = "", "", ""
        self._total, self._done = 0.0, 0.0
        self._totals: dict[str, tuple[float, float]] = {}  # phase -> what is done, of how many
        self._started = self._last_line = time.monotonic()
        self._done_before = 0.0

    def __enter__(self) -> "LogProgress":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def phase(self, name: str, total: int) -> None:
        """Print a line when a phase begins; none when it goes on after another one."""
        self._totals[self._name] = (self._done, self._total)
        done, of = self._totals.get(name, (0.0, 0.0))
        goes_on = not is_done(done, of)
        self._done = done if goes_on else 0.0
        self._name, self._total = name, self._done + total
        self._started, self._done_before = time.monotonic(), self._done
        if not goes_on:
            self._loss, self._last_line = "", self._started
            self.message(f"{name}: {total} to do")

    def advance(self, steps: float) -> None:
        """Print a line every LOG_EVERY_S seconds, and one at the end of the phase."""
        self._done += steps
        now = time.monotonic()
        ended = is_done(self._done, self._total)
        if steps and (ended or now - self._last_line >= LOG_EVERY_S):
            self._last_line = now
            rate = (now - self._started) / max(self._done - self._done_before, steps)
            left = 0 if ended else rate * (self._total - self._done)
            self.message(
                f"{self._name}: {self._done:.0f}/{self._total:.0f}, {self._loss}{left:.0f} s left"
            )

    def round(self, number: int, of: int) -> None:
        """Note the round, which is printed with the loss."""
        self._round = f"round {number}/{of}, "

    def loss(self, value: float) -> None:
        """Note the loss, which is printed with the next line of the phase."""
        self._loss = f"{self._round}loss {value:.3f}, "

    def message(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)


def is_done(steps: float, total: float) -> bool:
    """Whether all steps of a phase are done; they are sums of fractions, which are rounded."""
    return steps >= total - 1e-6


def make_progress(keep: bool = True) -> BarProgress | LogProgress:
    """Progress bars on a terminal (see `BarProgress` for `keep`), plain lines elsewhere."""
    return BarProgress(keep) if sys.stderr.isatty() else LogProgress()
