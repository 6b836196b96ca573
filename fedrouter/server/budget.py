"""Budgets of a run: it ends before an exchange that would exceed its bytes, and before a round that
would begin after its simulated time."""

from collections.abc import Sequence

from fedrouter.config import FederationConfig
from fedrouter.protocol.messages import ClientRequest
from fedrouter.protocol.sizes import exchange_bytes
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.server.engine import Traffic

MEGABYTE = 1e6


class BudgetSpentError(Exception):
    """`federation.budget_mb` or `federation.budget_s` allows no further exchange or round."""


def check_time(settings: FederationConfig, simulated_s: float | None) -> None:
    """Check that a round may begin.

    Raises:
        BudgetSpentError: the simulated time is over.
    """
    if settings.budget_s is not None and (simulated_s or 0.0) >= settings.budget_s:
        raise BudgetSpentError(
            f"federation.budget_s = {settings.budget_s:g} simulated seconds have passed"
        )


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
