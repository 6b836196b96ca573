"""Budgets and their accounting, against another accountant and closed forms."""

from math import erf, exp, sqrt

import pytest
from support.configs import resolved

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from dp_accounting import ComposedDpEvent, GaussianDpEvent
from dp_accounting.pld import PLDAccountant

from fedrouter.errors import PrivacyError
from fedrouter.privacy.accountant import noise_multipliers, spent_epsilon
from fedrouter.privacy.budget import PrivacyLedger, PrivacyPlan

DELTA = 1e-5
DP = ("privacy.epsilon=8", f"privacy.delta={DELTA}", "strategy=fedavg", "federation.rounds=4")


def exact_delta(multiplier: float, epsilon: float) -> float:
    """The delta of one Gaussian mechanism (Balle and Wang, 2018, theorem 8)."""

    def cdf(x: float) -> float:
        return (1 + erf(x / sqrt(2))) / 2

    a, b = 1 / (2 * multiplier), epsilon * multiplier
    return cdf(a - b) - exp(epsilon) * cdf(-a - b)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_the_calibrated_noise_spends_the_budget_and_no_more(epsilon: float) -> None:
    profile, round = noise_multipliers(epsilon, DELTA, ((4, 0.3), (25, 0.7)))
    spent = spent_epsilon([profile] * 4 + [round] * 25, DELTA)
    assert 0.999 * epsilon <= spent <= epsilon * (1 + 1e-6)
    # Gaussian mechanisms compose to one of multiplier (sum 1 / m^2)^-1/2: an upper bound holds.
    whole = (4 / profile**2 + 25 / round**2) ** -0.5
    assert exact_delta(whole, epsilon) <= DELTA
    assert exact_delta(whole, 0.85 * epsilon) > DELTA  # and is not far off


def test_the_shares_of_the_budget_are_those_asked_for() -> None:
    profile, round = noise_multipliers(8.0, DELTA, ((4, 0.3), (25, 0.7)))
    spent = 4 / profile**2, 25 / round**2
    assert spent[0] / sum(spent) == pytest.approx(0.3)


def test_the_accounting_bounds_that_of_privacy_loss_distributions() -> None:
    multipliers = [3.0, 3.0, 5.0]
    other = PLDAccountant()
    other.compose(ComposedDpEvent([GaussianDpEvent(one) for one in multipliers]))
    exact = other.get_epsilon(DELTA)
    assert exact <= spent_epsilon(multipliers, DELTA) <= 1.1 * exact


def test_nothing_released_is_nothing_spent() -> None:
    assert spent_epsilon([], DELTA) == 0


def test_a_release_beyond_the_budget_is_refused() -> None:
    config = resolved(*DP)
    plan = PrivacyPlan.of(config, 0)
    assert plan is not None and plan.profile is None
    ledger = PrivacyLedger.new(config)
    for _ in range(4):
        before = ledger.spent(DELTA)
        ledger = ledger.with_release(plan, plan.round)
        assert before < ledger.spent(DELTA) <= 8 * (1 + 1e-6)
    with pytest.raises(PrivacyError, match=r"release 5 .* of privacy.epsilon = 8"):
        ledger.with_release(plan, plan.round)


def test_a_secret_is_random_unless_it_is_seeded() -> None:
    config = resolved(*DP)
    assert PrivacyLedger.new(config).secret != PrivacyLedger.new(config).secret
    seeded = resolved(*DP, "privacy.seeded_noise=true")
    assert PrivacyLedger.new(seeded) == PrivacyLedger.new(seeded)


def test_without_epsilon_there_is_no_plan() -> None:
    assert PrivacyPlan.of(resolved("strategy=fedavg"), 0) is None
