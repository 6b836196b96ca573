"""The contract of a tracker."""

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrouter.errors import RunError
from fedrouter.storage.atomic import write_bytes

ID_BYTES = 32  # hexadecimal digits, as those of `uuid4().hex` and of MLflow


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        name: the name of the run folder.
        folder: the tracker's own folder in it; it exists.
        config: full name of a key -> value, of all that are set.
        round: the last finished round: 0 in a new run, and where a resumed run goes on.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    round: int

    def stored_id(self, make: Callable[[], str] = lambda: uuid.uuid4().hex) -> str:
        """The tracker's id of the run; made the first time, so that a resumed run has the same."""
        path = self.folder / "id"
        if not path.exists():
            write_bytes(path, make().encode())
        with path.open("rb") as file:
            id = file.read(ID_BYTES + 1)
        if not re.fullmatch(rb"[0-9a-f]{%d}" % ID_BYTES, id):
            raise RunError(f"{path} holds no id of a run; remove the folder {self.folder}")
        return id.decode()


class Tracker(ABC):
    """Receives the metrics of a run and writes them below `TrackedRun.folder`; asks no network.

    A constructor takes the `TrackedRun`: it begins the tracked run, or goes on with it where the
    folder has one. Any error is turned into one warning, after which the tracker is called no more.
    """

    @abstractmethod
    def log(self, metrics: Mapping[str, float], round: int) -> None:
        """Metrics after a round; a resumed run may repeat the last rounds."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """The run has ended, or has stopped before its end."""
