"""The files of a client: the labels of its local tasks and its own adapters.

::

    client-003/secret                           what the noise of its training is derived from
    client-003/labels.safetensors               the local task of every training row, by round
    client-003/personal/round-0007.safetensors  an adapter that the client kept after a round
    client-003/errors/task-00.0/                what the rounding of its last updates lost
    client-003/answers                          until the run ends: the digest of its answers
    client-003/sum.safetensors                  its part in a sum over clients that is under way
    client-003/releases.json                    the noisy sums that it sent its part of

A client reads what it kept before the current round, and the local tasks that hold in it, so that a
round that is repeated after a crash of the server starts from the same as the first time.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.storage.atomic import write_bytes, write_tensors
from fedrouter.storage.predictions import Prediction, keep
from fedrouter.storage.run_folder import PRIVATE
from fedrouter.types import AdapterWeights, FloatArray

VERSIONS = 3  # the server falls back by two checkpoints at most


class ClientStore:
    """The folder of one client, created when something is first written.

    Args:
        root: the folder of all clients of this machine.
        id: the client's id.
        rows: its training rows; their fingerprint shows whether they changed since the profile.
    """

    def __init__(self, root: Path, id: int, rows: Sequence[Row]) -> None:
        self.id = id
        self.path = root / f"client-{id:03d}"
        self._rows = rows

    @cached_property
    def fingerprint(self) -> NDArray[np.uint8]:
        """A SHA-256 digest, 32 bytes, of the rows' texts."""
        texts = [(row.instruction, row.response, *row.context) for row in self._rows]
        return np.frombuffer(hashlib.sha256(repr(texts).encode()).digest(), np.uint8)

    @property
    def profiled(self) -> bool:
        """Whether the client has computed its local tasks."""
        return self._labels.exists()

    def write_labels(self, labels: NDArray[np.int64], round: int) -> None:
        """Store the local task of every training row.

        Args:
            labels: int64, shape (rows,).
            round: the first round in which they hold. Those of a few earlier rounds are retained,
                since the server may fall back to them; those of later rounds, which a run that was
                killed has left, are removed.
        """
        self._make_private(self.path)
        stored: dict[str, NDArray[Any]] = {}
        with suppress(OSError, SafetensorError):
            stored = load_file(self._labels)
        if not np.array_equal(stored.pop("rows", np.zeros(0)), self.fingerprint):
            stored = {}
        earlier = sorted(name for name in stored if name < _version(round))[1 - VERSIONS :]
        versions = {name: stored[name] for name in earlier} | {_version(round): labels}
        write_tensors(self._labels, {**versions, "rows": self.fingerprint})

    def labels(self, round: int | None = None) -> NDArray[np.int64]:
        """The local task of each training row that holds in a round, as `write_labels` stored it.

        Args:
            round: the round; None: the latest.

        Raises:
            DataError: there is no readable profile, or it was made with other rows.
        """
        try:
            stored = load_file(self._labels)
            same = np.array_equal(stored.pop("rows"), self.fingerprint)
            held = [v for v in stored if round is None or v <= _version(round)]
            labels: NDArray[np.int64] = stored[max(held)]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(
                f"{self._labels}: no readable profile of client {self.id}; start a new run"
            ) from error
        if not same:
            raise DataError(
                f"client {self.id} was profiled with {len(labels)} samples and now has "
                f"{len(self._rows)}, or others; give it the data it had"
            )
        return labels

    def keep(self, name: str, round: int, weights: AdapterWeights) -> None:
        """Store weights under a name after a round; the last few rounds' are retained."""
        folder = self.path / name
        self._make_private(folder)
        write_tensors(folder / _file(round), weights)
        for old in sorted(folder.glob("round-*"))[:-VERSIONS]:
            old.unlink()

    def kept(self, name: str | None, round: int) -> dict[str, FloatArray]:
        """The weights last stored under a name before `round`; empty if there are none.

        Raises:
            DataError: they are damaged.
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

    def write_predictions(self, predictions: Iterable[Prediction]) -> None:
        """Store the client's answers to the test rows, until the server collects them."""
        self._make_private(self.path)
        keep(self.path, predictions)

    def secret(self) -> str:
        """64 random hexadecimal digits, drawn at the first call: a round that is repeated after a
        crash has the same noise, and no other reply tells of the same rows."""
        path = self.path / "secret"
        if not path.exists():
            self._make_private(self.path)
            write_bytes(path, secrets.token_hex(32).encode())
        return path.read_text()

    def sum_file(self) -> Path:
        """The file for the client's part in a sum over clients, in its folder."""
        self.path.mkdir(PRIVATE, parents=True, exist_ok=True)
        return self.path / "sum.safetensors"

    def releases_file(self) -> Path:
        """The file for the client's account of noisy sums, in its folder."""
        self.path.mkdir(PRIVATE, parents=True, exist_ok=True)
        return self.path / "releases.json"

    def _make_private(self, folder: Path) -> None:
        """Make a folder in that of the client, which only its owner may read."""
        self.path.mkdir(PRIVATE, parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def _labels(self) -> Path:
        return self.path / "labels.safetensors"


def _version(round: int) -> str:
    return f"round-{round:06d}"


def _file(round: int) -> str:
    return f"{_version(round)}.safetensors"
