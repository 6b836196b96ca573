"""A budget of bytes: a run ends before an exchange that would exceed it."""

from collections.abc import Sequence

from fedrouter.config import FederationConfig
from fedrouter.protocol.messages import ClientRequest
from fedrouter.protocol.sizes import exchange_bytes
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.server.engine import Traffic

MEGABYTE = 1e6


class BudgetSpentError(Exception):
    """The next exchange does not fit `federation.budget_mb` any more."""


def check_budget(
    settings: FederationConfig,
    traffic: Traffic,
    requests: Sequence[ClientRequest],
    expected: ExpectedArrays,
) -> None:
    """Check that requests and their replies fit the budget.

    Args:
        settings: the section `[federation]`.
        traffic: bytes sent and received so far.
        requests: what is to be sent; replies are counted at the largest size that they may have.
        expected: what the arrays of the run look like.

    Raises:
        BudgetSpentError: they do not.
    """
    if settings.budget_mb is None:
        return
    spent = traffic.up + traffic.down
    needed = exchange_bytes(requests, expected, settings.transport)
    if spent + needed > settings.budget_mb * MEGABYTE:
        raise BudgetSpentError(
            f"{spent / MEGABYTE:.2f} of federation.budget_mb = {settings.budget_mb:g} are spent, "
            f"and the next exchange may take {needed / MEGABYTE:.2f}"
        )
