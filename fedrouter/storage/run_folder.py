"""Run folders: what a run has written can always be read back, whenever the process was killed.

::

    runs/NAME/
      config.toml     its first line marks the folder as a run
      metrics.jsonl   one record a line, one line a round
      summary.json    written last: a run that has it is finished
      checkpoints/round-0007/state.safetensors + state.json

The rest of a run folder (adapters, router, report) is written by the modules that know its content.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fedrouter.errors import RunError
from fedrouter.storage import checkpoints
from fedrouter.storage.atomic import write_bytes, write_json
from fedrouter.storage.checkpoints import Arrays, Checkpoint
from fedrouter.storage.formats import MetricsRecord, SummaryFile, parse_as
from fedrouter.storage.inspection import check_folder
from fedrouter.storage.lock import HOLDER, LOCK, locked

MARKER = "# fedrouter run\n"
DEPLOYED = "deployed"  # in the place of a label: the rows are with the nodes of a deployment
PRIVATE = 0o700  # a folder that only its owner may read


class RunFolder:
    """One run's folder. Make one with `create` or `open`.

    Every method that writes raises RunError when the disk is full; what was there before stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, path: Path, config_toml: str, *, label: str | None = None, deployed: bool = False
    ) -> "RunFolder":
        """A new run in a new or empty folder; a new one is private to the user.

        Args:
            path: the folder; missing parents are made.
            config_toml: the resolved configuration.
            label: a name for runs that replace each other: an earlier run of the same label is
                removed first. Nothing else ever is.
            deployed: the run's rows are with the nodes of a deployment.

        Raises:
            RunError: the folder is in use, or cannot be made.
        """
        cls.check_free(path, label)
        name = DEPLOYED if deployed else label
        mark = MARKER if name is None else f"{MARKER}# {name}\n"
        with write_errors(path, "free some space and start again"):
            if is_run(path):
                with locked(path):
                    _remove(path)
            path.mkdir(PRIVATE, parents=True, exist_ok=True)
            write_bytes(path / "config.toml", f"{mark}{config_toml}".encode())
        return cls(path)

    @staticmethod
    def check_free(path: Path, label: str | None = None) -> None:
        """Refuse a path that `create` would refuse.

        Raises:
            RunError: the folder is in use.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; choose another folder with -o")
        if all(is_temporary(e) or e.name in (LOCK, HOLDER) for e in _entries(path)):
            return
        if not is_run(path):
            raise RunError(f"{path} is not empty and not a run; choose another folder with -o")
        if label is None or not is_run(path, label):
            raise RunError(
                f"{path} holds a run already; choose another folder with -o, or go on with it: "
                f"{RunFolder(path).continuation}"
            )

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """A run that exists.

        Raises:
            RunError: there is none at `path`, or it holds what no run writes.
        """
        if is_run(path):
            check_folder(path)
            return cls(path)
        found = "is not a run folder" if path.exists() else "does not exist"
        near = sorted({*path.glob("*/"), *path.parent.glob("*/")})
        runs = [str(folder) for folder in near if is_run(folder)][-3:]
        hint = f"runs near it: {', '.join(runs)}" if runs else "start one with: fedrouter run"
        raise RunError(f"{path} {found}; {hint}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a full disk, or a folder that cannot be written, into a RunError with a remedy."""
        with write_errors(self.path, f"free some space, then: {self.continuation}"):
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to the folder.

        Raises:
            RunError: one does; the message names it.
        """
        with self.writing(), locked(self.path):
            yield

    def save_checkpoint(self, round: int, arrays: Arrays, meta: Mapping[str, Any]) -> None:
        """Store the state after `round`, whole or not at all; the last two are kept.

        `meta` is JSON with text keys and finite numbers.
        """
        with self.writing():
            checkpoints.save_checkpoint(self._checkpoints, round, arrays, meta)

    def latest_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest undamaged checkpoint (None where there is none yet), and warnings to print.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        return checkpoints.latest_checkpoint(self._checkpoints)

    def checkpoint_stamp(self) -> tuple[object, ...]:
        """What changes when `latest_checkpoint` may have something new; cheap to ask."""
        return checkpoints.newest_stamp(self._checkpoints)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a record (JSON, finite numbers, its `round` among it) to metrics.jsonl, flushed."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with self.writing(), self._metrics.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records. A last line that a kill or a full disk cut short is left out.

        Raises:
            RunError: another line is not a record.
        """
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_bytes().split(b"\n")[:-1]  # what follows the last line's end
        return [self._record(number, line) for number, line in enumerate(lines, start=1)]

    def truncate_metrics(self, round: int) -> None:
        """Drop the records of rounds after `round`, and a line cut short: they will come again."""
        kept = [record for record in self.read_metrics() if record["round"] <= round]
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
        with self.writing():
            write_bytes(self._metrics, "".join(lines).encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, which makes the run a finished one."""
        with self.writing():
            write_json(self._summary, summary)

    def remove_leftovers(self) -> None:
        """Delete what kills have left unfinished in the run, as far as possible."""
        for entry in [entry for entry in self.path.rglob(".*") if is_temporary(entry)]:
            with suppress(OSError):  # it went with the folder that it was in
                _remove_entry(entry)
        checkpoints.prune(self._checkpoints)

    def read_summary(self) -> dict[str, Any]:
        """The summary of a finished run.

        Raises:
            RunError: the run is not finished, or the file is damaged.
        """
        try:
            return dict(parse_as(SummaryFile, self._summary.read_bytes()))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} is not finished; finish it with: {self.continuation}"
            ) from None
        except ValueError as error:
            raise RunError(
                f"{self._summary} is damaged ({error}); delete it, then: {self.continuation}"
            ) from None

    @property
    def deployed(self) -> bool:
        """Whether the run is that of a federation of several machines: this one has no rows."""
        return is_run(self.path, DEPLOYED)

    @property
    def continuation(self) -> str:
        """The command that goes on with the run, if it is not finished."""
        if self.deployed:  # by the operator's files, beside server/, in which the run is
            return f"operator/run.sh {self.path.resolve().name}"
        return f"fedrouter resume {self.path}"

    def check_local(self) -> None:
        """Refuse a run that only a federation of several machines can go on with.

        Raises:
            RunError: it names the command that does.
        """
        if self.deployed:
            raise RunError(
                f"{self.path} is a run of a federation of several machines, whose rows are with "
                f"its nodes; on the server, go on with it by: {self.continuation}"
            )

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self._summary.exists()

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def _summary(self) -> Path:
        return self.path / "summary.json"

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            return dict(parse_as(MetricsRecord, line))
        except ValueError:
            raise RunError(
                f"{self._metrics}, line {number}: not a record of a round; delete the line"
            ) from None


def is_run(path: Path, label: str | None = None) -> bool:
    """Whether `path` is a run folder: its config.toml starts with fedrouter's mark, and with the
    `label` that `RunFolder.create` was given, if one is asked for."""
    mark = (MARKER if label is None else f"{MARKER}# {label}\n").encode()
    try:
        with (path / "config.toml").open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False


def new_run_path(strategy: str, seed: int, root: Path = Path("runs")) -> Path:
    """A new name ``runs/<strategy>-<seed>-<time>``; the folder is not made yet."""
    while True:
        now = datetime.now()
        path = root / f"{strategy}-{seed}-{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}"
        if not path.exists():
            return path
        time.sleep(0.001)


@contextmanager
def write_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into a RunError with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"the disk is full, writing to {path}; {remedy}") from error
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def _entries(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def is_temporary(entry: Path) -> bool:
    """Whether `entry` is what a kill left of a file or folder that was being written."""
    return entry.name.startswith(".") and entry.name.endswith((".tmp", ".old"))


def _remove(path: Path) -> None:
    """Empty a run folder, the file that marks it last: killed half-way, it still is a run."""
    for entry in _entries(path):
        if entry.name not in ("config.toml", LOCK, HOLDER):
            _remove_entry(entry)
    (path / "config.toml").unlink()


def _remove_entry(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
