"""What a client keeps on its own disk between processes: its local tasks and its own adapters.

::

    client-003/labels.safetensors               the local task of every training row
    client-003/personal/round-0007.safetensors  an adapter it kept after a round

A client reads what it kept before the round it works on, so that a round that is done again, after
a crash of the server, starts from what it started from the first time.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.storage.atomic import write_tensors
from fedrouter.types import AdapterWeights, FloatArray

VERSIONS = 3  # the server falls back by two checkpoints at most


class ClientFolder:
    """The folder of client `id` in `root`; made when something is first written."""

    def __init__(self, root: Path, id: int) -> None:
        self.id = id
        self.path = root / f"client-{id:03d}"

    def write_labels(self, labels: NDArray[np.int64], rows: Sequence[Row]) -> None:
        """Store the local task of every training row."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_tensors(
            self.path / "labels.safetensors", {"labels": labels, "rows": _fingerprint(rows)}
        )

    def labels(self, rows: Sequence[Row]) -> NDArray[np.int64]:
        """The local task of each training row, as `write_labels` stored it.

        Raises:
            DataError: there is no (undamaged) profile, or the rows are not those of the profile.
        """
        path = self.path / "labels.safetensors"
        try:
            stored = load_file(path)
            labels: NDArray[np.int64] = stored["labels"]
            same = np.array_equal(stored["rows"], _fingerprint(rows))
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(
                f"{path}: no readable profile of client {self.id}; start a new run"
            ) from error
        if not same:
            raise DataError(
                f"client {self.id} was profiled with {len(labels)} samples and now has "
                f"{len(rows)}, or others; give it the data it had"
            )
        return labels

    @property
    def profiled(self) -> bool:
        """Whether the client has found its local tasks."""
        return (self.path / "labels.safetensors").exists()

    def changed(self, rows: Sequence[Row]) -> bool:
        """Whether the client has found its local tasks in other rows than these."""
        if not self.profiled:
            return False
        try:
            self.labels(rows)
        except DataError:
            return True
        return False

    def keep(self, name: str, round: int, weights: AdapterWeights) -> None:
        """Keep weights under a name after a round; the last few rounds' are kept."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / _file(round), weights)
        for old in sorted(folder.glob("round-*"))[:-VERSIONS]:
            old.unlink()

    def kept(self, name: str | None, round: int) -> dict[str, FloatArray]:
        """What was kept under a name before `round`, the latest of it; nothing where nothing was.

        Raises:
            DataError: it is damaged.
        """
        if name is None:
            return {}
        earlier = [p for p in (self.path / name).glob("round-*") if p.name < _file(round)]
        if not earlier:
            return {}
        try:
            return dict(load_file(max(earlier)))
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{max(earlier)}: the adapter that client {self.id} kept is damaged; delete it to "
                "go on from the one before"
            ) from error


def _fingerprint(rows: Sequence[Row]) -> NDArray[np.uint8]:
    """32 bytes that differ where the rows' texts do."""
    texts = [(row.instruction, row.response) for row in rows]
    return np.frombuffer(hashlib.sha256(repr(texts).encode()).digest(), np.uint8)


def _file(round: int) -> str:
    return f"round-{round:06d}.safetensors"
