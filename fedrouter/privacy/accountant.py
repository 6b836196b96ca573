"""The accountant: how much noise a budget asks for, and what releases have spent.

Every release of a run is a Gaussian mechanism: a sum of clipped vectors plus normal noise, whose
standard deviation is the noise multiplier times the bound on one client's (or sample's) vector.
The accounting is that of the library dp-accounting, by Rényi differential privacy. Its accountant
of privacy loss distributions would allow about 6 % less noise, but needs seconds to minutes.

No amplification by sampling is claimed: the server draws the clients of a round, and it is one of
the parties that privacy is claimed against.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from fedrouter.errors import MissingExtraError


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.rdp
    except ImportError as error:
        raise MissingExtraError("privacy.epsilon", "privacy") from error
    return dp_accounting


def spent_epsilon(multipliers: Sequence[float], delta: float) -> float:
    """The epsilon, at a delta, of Gaussian mechanisms with these noise multipliers; 0 of none.

    Raises:
        MissingExtraError: dp-accounting is not installed.
    """
    return _spent(tuple(sorted(Counter(multipliers).items())), delta)


@cache
def _spent(counts: tuple[tuple[float, int], ...], delta: float) -> float:
    if not counts:
        return 0.0
    library = _library()
    accountant = library.rdp.RdpAccountant()
    for multiplier, number in counts:
        accountant.compose(library.GaussianDpEvent(multiplier), number)
    return float(accountant.get_epsilon(delta))


@cache
def noise_multipliers(
    epsilon: float, delta: float, parts: tuple[tuple[int, float], ...]
) -> tuple[float, ...]:
    """The noise multiplier of each part of a run, so that all releases together spend `epsilon`.

    Args:
        epsilon, delta: the budget.
        parts: for each part, its number of releases, at least 1, and its share of the budget; the
            shares add up to 1. Gaussian mechanisms add up in 1 / multiplier^2, which is what is
            shared out.

    Raises:
        MissingExtraError: dp-accounting is not installed.
    """
    library = _library()

    def multipliers(total: float) -> list[float]:
        return [total * (number / share) ** 0.5 for number, share in parts]

    def event(total: float) -> object:
        single = map(library.GaussianDpEvent, multipliers(total))
        return library.ComposedDpEvent(
            [
                library.SelfComposedDpEvent(one, number)
                for one, (number, _) in zip(single, parts, strict=True)
            ]
        )

    total = library.calibrate_dp_mechanism(library.rdp.RdpAccountant, event, epsilon, delta)
    return tuple(multipliers(float(total)))
