"""All trackers of a run; one that fails is left out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from fedrouter.config.sections.tracking import TrackerName
from fedrouter.errors import printable
from fedrouter.storage.run_folder import PRIVATE
from fedrouter.tracking.base import TrackedRun, Tracker
from fedrouter.tracking.metrics import final_metrics, round_metrics
from fedrouter.tracking.registry import TRACKERS

FOLDER = "tracking"  # in a run folder
MAX_REASON = 200  # characters of the reason of a failure


class Trackers:
    """A context manager: leaving it closes all trackers.

    Args:
        names: the trackers of the run.
        run: the run folder.
        config: full name of a key -> value.
        round: the last finished round.
        warn: called with one line for a tracker that fails.
    """

    def __init__(
        self,
        names: Sequence[TrackerName],
        run: Path,
        config: Mapping[str, Any],
        round: int,
        warn: Callable[[str], None],
    ) -> None:
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        self._finished = False
        for name in names:
            self._attempt(name, partial(self._begin, name, run, config, round))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._open.items()):
            self._attempt(name, partial(tracker.close, finished=self._finished))

    def round(self, record: Mapping[str, Any]) -> None:
        """Pass on a record of `metrics.jsonl`."""
        for round, metrics in round_metrics(record):
            self._log(metrics, round)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Pass on the scores and the costs of a finished run."""
        self._log(final_metrics(summary), summary["rounds"])
        self._finished = True

    def _begin(self, name: TrackerName, run: Path, config: Mapping[str, Any], round: int) -> None:
        folder = run / FOLDER / name
        folder.mkdir(PRIVATE, parents=True, exist_ok=True)
        given = TrackedRun(run.resolve().name, folder.resolve(), config, round)
        self._open[name] = TRACKERS[name].open(given)

    def _log(self, metrics: Mapping[str, float], round: int) -> None:
        for name, tracker in list(self._open.items()):
            self._attempt(name, partial(tracker.log, metrics, round))

    def _attempt(self, name: str, call: Callable[[], None]) -> None:
        """Call; a failure of any kind costs the run nothing but this tracker."""
        try:
            call()
        except Exception as error:
            self._open.pop(name, None)
            reason = printable(f"{type(error).__name__}: {error}", MAX_REASON)
            self._warn(f"{name} tracks this run no further ({reason})")
