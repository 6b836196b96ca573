"""Which clients' movements point against those of the others, over the tasks of a round.

The adapter of a task with two clients has no majority, but a round has one: adapters of different
tasks start alike and learn some things in common, such as the form of the answers, so that the
movements of honest clients have positive cosines between tasks too. (Within a task they need not:
where training has converged, the movements of its clients cancel.) A client is judged by all of its
tasks together.

Colluders that send the same movement agree perfectly and must not count more for it, so cosines are
bounded and become votes of about the same size. docs/trust.md has the measurements.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrouter.strategies.aggregation.movements import Movement

LEAST_CLIENTS = 4  # a hostile one leaves a majority of three
BOUND = 0.25  # cosines are bounded by this quantile of their absolute values
EVIDENCE = 0.015  # mean cosine, on either side of zero, from which on it is not chance


def clients_against(
    movements: Sequence[Movement], products: NDArray[np.float64], before: Collection[int]
) -> tuple[int, ...]:
    """The clients whose movements point against those of the others, in ascending order.

    A verdict holds until there is evidence for the opposite: late in training movements are mostly
    noise, and cosines between tasks vanish. No verdict changes with fewer than four clients.

    Args:
        movements: those of the round.
        products: their Gram matrix.
        before: the clients of whom this was found in earlier rounds.
    """
    clients = sorted({one.client for one in movements})
    if len(clients) < LEAST_CLIENTS:
        return tuple(sorted(before))
    scores = agreement_scores(_cosines(movements, products, clients))
    against = {client for client, s in zip(clients, scores, strict=True) if s < -EVIDENCE}
    cleared = {client for client, s in zip(clients, scores, strict=True) if s > EVIDENCE}
    return tuple(sorted({*before, *against} - cleared))


def _cosines(
    movements: Sequence[Movement], products: NDArray[np.float64], clients: Sequence[int]
) -> NDArray[np.float64]:
    """The mean cosine between the movements of each pair of clients for different adapters; zero on
    the diagonal, and for clients that trained the same adapter only."""
    norms = np.sqrt(np.diag(products)).clip(min=np.finfo(np.float64).tiny)
    names = np.array([one.adapter for one in movements])
    apart = (names[:, None] != names).astype(np.float64)
    own = np.array([[one.client == client for one in movements] for client in clients], np.float64)
    sums = own @ (apart * products / norms / norms[:, None]) @ own.T
    cosines = sums / (own @ apart @ own.T).clip(min=1)
    np.fill_diagonal(cosines, 0)
    return np.asarray(cosines)


def agreement_scores(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each client's mean bounded cosine to the clients that agree with each other.

    Cosines are bounded by the lower quartile of their absolute values. The leading eigenvector of
    this matrix divides the clients into two camps; the entries of the larger camp are the weights
    of the clients that agree.

    Args:
        cosines: symmetric, zero on the diagonal, shape (n, n); n at least 2.
    """
    apart = ~np.eye(len(cosines), dtype=bool)
    bound = np.quantile(np.abs(cosines[apart]), BOUND)
    votes = cosines.clip(-bound, bound)
    leading = np.linalg.eigh(votes)[1][:, -1]
    weights = (leading if leading.sum() >= 0 else -leading).clip(min=0)
    others = apart * weights
    totals = others.sum(axis=1).clip(min=np.finfo(float).tiny)
    return np.asarray((votes * others).sum(axis=1) / totals)
