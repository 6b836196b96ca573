"""A client's own account of the noisy sums that it sent its part of (differential privacy).

Under secure aggregation the server is not trusted to count. A client refuses a sum that would
exceed the budget of the run, and the same noise on other values or over other clients: the
difference of two such sums would tell of a client with no more than its own share of the noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedrouter.errors import DataError, MessageError, PrivacyError
from fedrouter.privacy.budget import PrivacyLedger, PrivacyPlan
from fedrouter.storage.atomic import write_bytes


@dataclass(frozen=True)
class NoisySum:
    """A noisy sum that the client sent its part of.

    Attributes:
        release: digest of what its noise depends on (`Participant.release`).
        answer: digest of the client's part (`Participant.answer`).
        survivors: the clients over which the client let it be opened; empty before.
    """

    release: str
    answer: str
    survivors: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReleaseRecord:
    """What a client has told.

    Attributes:
        ledger: the noise multipliers.
        sums: the sums, in the same order.
    """

    ledger: PrivacyLedger
    sums: tuple[NoisySum, ...] = ()


_record: TypeAdapter[ReleaseRecord] = TypeAdapter(ReleaseRecord)


class ClientReleases:
    """The account of a client, in a file of its folder.

    Args:
        path: the file.
        plan: the run's budget and noise.
        secret: what the client's noise is derived from.
    """

    def __init__(self, path: Path, plan: PrivacyPlan, secret: str) -> None:
        self.secret = secret
        self._path = path
        self._plan = plan

    def charge(self, release: str, answer: str, multiplier: float) -> None:
        """Record that the client sends its part of a noisy sum, which others may open. The same
        once more tells nothing new and costs nothing.

        Args:
            release: digest of what the noise depends on.
            answer: digest of the client's part.
            multiplier: the noise multiplier of the sum.

        Raises:
            MessageError: the budget is spent, or the client's part was another one before.
            DataError: the file is damaged.
        """
        record = self._read()
        for one in record.sums:
            if one.release == release:
                if one.answer != answer:
                    raise MessageError(
                        "sum: the client's answer to the same request was another one before (its "
                        "rows changed, or a GPU computed it), and has the same noise"
                    )
                return
        try:
            ledger = record.ledger.with_release(self._plan, multiplier)
        except PrivacyError as error:
            raise MessageError(f"sum: by the client's own account {error}") from None
        self._write(ReleaseRecord(ledger, (*record.sums, NoisySum(release, answer))))

    def open(self, release: str, survivors: Sequence[int]) -> None:
        """Record over which clients the client lets a noisy sum be opened.

        Args:
            release: as for `charge`, which was called before.
            survivors: the clients.

        Raises:
            MessageError: its noise was opened over other clients.
            DataError: the file is damaged.
        """
        record = self._read()
        opened = tuple(sorted(survivors))
        for one in record.sums:
            if one.release == release and one.survivors not in ((), opened):
                raise MessageError("sum: its noise was opened over other clients before")
        sums = tuple(
            replace(one, survivors=opened) if one.release == release else one for one in record.sums
        )
        self._write(replace(record, sums=sums))

    def _write(self, record: ReleaseRecord) -> None:
        write_bytes(self._path, _record.dump_json(record))

    def _read(self) -> ReleaseRecord:
        if not self._path.exists():
            return ReleaseRecord(PrivacyLedger(""))
        try:
            return _record.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            raise DataError(
                f"{self._path}: the account of this client is damaged, and what it has told is not "
                "known; start a new run"
            ) from None
