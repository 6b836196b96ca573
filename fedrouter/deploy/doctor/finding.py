"""What one check of a machine has found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedrouter.errors import FedRouterError


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        check: what was looked at, such as "certificate".
        text: what was found.
        remedy: what to do about a fault; "": all is well.
    """

    check: str
    text: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.remedy


Check = Callable[[], Iterator[Finding]]


def found(check: str, look: Check) -> Iterator[Finding]:
    """The findings of a check; an error that names its own remedy is one too."""
    try:
        yield from look()
    except FedRouterError as error:
        text, _, remedy = str(error).rpartition("; ")
        yield Finding(check, text or remedy, remedy)
    except OSError as error:
        yield Finding(check, str(error), "put the file back, and let this user read it")
