"""The privacy budget of a run: what it has to spend, and what it has spent."""

import secrets
from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import Field

from fedrouter.config import ResolvedConfig
from fedrouter.errors import PrivacyError
from fedrouter.privacy.accountant import noise_multipliers, spent_epsilon

SLACK = 1e-6  # relative; the calibration stops this close to the budget
Multiplier = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class PrivacyPlan:
    """The noise of every release of a run.

    Attributes:
        epsilon, delta: the budget.
        profile: noise multiplier of each sum of profiles; None: the method has none.
        round: noise multiplier of each round's sum of movements.
    """

    epsilon: float
    delta: float
    profile: float | None
    round: float

    @classmethod
    def of(cls, config: ResolvedConfig, profile_releases: int) -> "PrivacyPlan | None":
        """The plan for a run; None if it has no budget.

        Args:
            config: the run's configuration.
            profile_releases: the number of sums of profiles before the first round.

        Raises:
            MissingExtraError: dp-accounting is not installed.
        """
        settings, rounds = config.privacy, config.federation.rounds
        if settings.epsilon is None or settings.delta is None:
            return None
        share = settings.profile_share
        parts = (profile_releases, share), (rounds, 1 - share)
        budget = settings.epsilon, settings.delta
        if not profile_releases:
            [multiplier] = noise_multipliers(*budget, ((rounds, 1.0),))
            return cls(*budget, None, multiplier)
        return cls(*budget, *noise_multipliers(*budget, parts))


@dataclass(frozen=True)
class PrivacyLedger:
    """What a run has released; a part of the server's state, so that a resumed run knows it.

    Attributes:
        secret: what the noise is derived from.
        multipliers: the noise multiplier of each release, in order.
    """

    secret: str
    multipliers: tuple[Multiplier, ...] = ()

    @classmethod
    def new(cls, config: ResolvedConfig) -> Self:
        """An empty ledger with a new secret, or with the run's seed for `seeded_noise`."""
        seeded = config.privacy.seeded_noise
        return cls(f"seed {config.seed}" if seeded else secrets.token_hex(32))

    def spent(self, delta: float) -> float:
        """The epsilon that is spent, at a delta."""
        return spent_epsilon(self.multipliers, delta)

    def with_release(self, plan: PrivacyPlan, multiplier: float) -> "PrivacyLedger":
        """The ledger with one more release.

        Raises:
            PrivacyError: it would exceed the budget.
        """
        after = replace(self, multipliers=(*self.multipliers, multiplier))
        spent = after.spent(plan.delta)
        if spent > plan.epsilon * (1 + SLACK):
            raise PrivacyError(
                f"the privacy budget is spent: release {len(after.multipliers)} would make it "
                f"epsilon {spent:.3g} of privacy.epsilon = {plan.epsilon:g} (delta "
                f"{plan.delta:g}); start a new run with a larger budget"
            )
        return after
