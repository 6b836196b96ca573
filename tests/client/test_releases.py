"""A client's own account of noisy sums."""

from pathlib import Path

import pytest

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from fedrouter.client.releases import ClientReleases
from fedrouter.errors import DataError, MessageError
from fedrouter.privacy.accountant import noise_multipliers
from fedrouter.privacy.budget import PrivacyPlan


@pytest.fixture
def plan() -> PrivacyPlan:
    """A budget for two rounds."""
    [multiplier] = noise_multipliers(4.0, 1e-3, ((2, 1.0),))
    return PrivacyPlan(4.0, 1e-3, None, multiplier)


def test_a_client_counts_what_it_sends(plan: PrivacyPlan, tmp_path: Path) -> None:
    path = tmp_path / "releases.json"
    for release in ("first", "second"):  # each in a process of its own
        ClientReleases(path, plan, "secret").charge(release, "answer", plan.round)
    account = ClientReleases(path, plan, "secret")
    account.charge("second", "answer", plan.round)  # the same once more
    with pytest.raises(MessageError, match="another one before"):
        account.charge("second", "another", plan.round)
    with pytest.raises(MessageError, match="own account the privacy budget is spent: release 3"):
        account.charge("third", "answer", plan.round)


def test_a_sum_is_opened_over_the_same_clients_again(plan: PrivacyPlan, tmp_path: Path) -> None:
    account = ClientReleases(tmp_path / "releases.json", plan, "secret")
    account.charge("first", "answer", plan.round)
    account.charge("second", "answer", plan.round)
    account.open("first", (0, 1, 2))
    account.open("first", (2, 1, 0))
    account.open("second", (0, 1))
    with pytest.raises(MessageError, match="over other clients before"):
        account.open("first", (0, 1))


def test_a_damaged_account_is_refused(plan: PrivacyPlan, tmp_path: Path) -> None:
    path = tmp_path / "releases.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="the account of this client is damaged"):
        ClientReleases(path, plan, "secret").charge("first", "answer", plan.round)
