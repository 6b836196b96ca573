"""A client's own account of the noisy sums that it has let be opened (differential privacy).

Under secure aggregation the server is not trusted to count. A client refuses a sum that would
exceed the budget of the run, and the same noise over other clients: the difference of two such sums
would tell of the others' data with no more than their own shares of the noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedrouter.errors import DataError, MessageError, PrivacyError
from fedrouter.privacy.budget import PrivacyLedger, PrivacyPlan
from fedrouter.storage.atomic import write_bytes


@dataclass(frozen=True)
class OpenedSum:
    """A noisy sum that was opened.

    Attributes:
        release: digest of what its noise depends on (`Participant.release`).
        survivors: the clients over which it was opened.
    """

    release: str
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class ReleaseRecord:
    """What a client has let be opened.

    Attributes:
        ledger: the noise multipliers.
        sums: the sums, in the same order.
    """

    ledger: PrivacyLedger
    sums: tuple[OpenedSum, ...] = ()


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

    def charge(self, release: str, survivors: Sequence[int], multiplier: float) -> None:
        """Record that a sum is opened. The same sum once more tells nothing new and costs nothing.

        Args:
            release: digest of what the noise depends on.
            survivors: the clients over which it is opened.
            multiplier: its noise multiplier.

        Raises:
            MessageError: its noise was opened over other clients, or the budget is spent.
            DataError: the file is damaged.
        """
        record = self._read()
        before = next((one for one in record.sums if one.release == release), None)
        opened = OpenedSum(release, tuple(sorted(survivors)))
        if before is not None:
            if before != opened:
                raise MessageError("sum: its noise was opened over other clients before")
            return
        try:
            ledger = record.ledger.with_release(self._plan, multiplier)
        except PrivacyError as error:
            raise MessageError(f"sum: by the client's own account {error}") from None
        after = replace(record, ledger=ledger, sums=(*record.sums, opened))
        write_bytes(self._path, _record.dump_json(after))

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
