"""DP-FedAvg (McMahan et al., "Learning Differentially Private Recurrent Language Models", 2018),
for several adapters at once."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from fedrouter.privacy.mechanism import clip_factor, noisy_sum
from fedrouter.protocol.messages import ClientReply
from fedrouter.protocol.sums import ALL_CLIENTS
from fedrouter.strategies.aggregation.movements import collect
from fedrouter.types import AdapterWeights, moved


def private_means(
    adapters: Mapping[str, AdapterWeights],
    replies: Iterable[ClientReply],
    *,
    bound: float,
    multiplier: float,
    clients: float,
    secret: str,
    round: int,
) -> dict[str, AdapterWeights]:
    """All adapters after the noisy mean of their movements.

    A client can move several adapters: its movements of all adapters together are clipped, so that
    `bound` is what one client changes. An adapter that no client trained gets noise too; otherwise
    it would tell that it has no client. Clients count alike, whatever their number of samples.

    Args:
        adapters: the shared adapters before the round.
        replies: the clients' checked replies; consumed one at a time.
        bound: the norm to which the movements of a client are clipped.
        multiplier: the noise multiplier.
        clients: what the sum over clients is divided by: the number of clients that are expected
            to train an adapter, which does not depend on data.
        secret: what the noise is derived from.
        round: the round.
    """
    sums = {name: np.zeros(_numbers(weights)) for name, weights in adapters.items()}
    trained: list[int] = []
    for reply in replies:
        trained.append(reply.client)
        movements = collect(adapters, [reply])
        factor = clip_factor([one.vector for one in movements], bound)
        for one in movements:
            if factor > 0:
                sums[one.adapter] += factor * one.vector.astype(np.float64)
    # A round that is repeated after a crash has the same noise only if the same clients answer: the
    # difference of two sums with the same noise would tell of the others.
    path: tuple[str | int, ...] = ("adapters", round, *sorted(trained))
    return {
        name: moved(
            adapters[name], noisy_sum(total, bound, multiplier, secret, *path, name) / clients
        )
        for name, total in sums.items()
    }


def opened_means(
    adapters: Mapping[str, AdapterWeights],
    replies: Iterable[ClientReply],
    *,
    bound: float,
    multiplier: float,
    clients: float,
    secret: str,
    round: int,
) -> dict[str, AdapterWeights]:
    """As `private_means`, from sums to which clients have added the noise (secure aggregation).

    An adapter whose sum was not opened gets noise from the server, since otherwise it would tell
    that it has few clients. If no sum was opened, all adapters are as before.

    Args:
        adapters: the shared adapters before the round.
        replies: the reply of all clients together, if the sum was opened; of single clients, no
            more than their tasks.
        bound, multiplier, clients, secret, round: as for `private_means`.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    for reply in replies:
        movements = collect(adapters, [reply]) if reply.client == ALL_CLIENTS else []
        sums |= {one.adapter: one.vector.astype(np.float64) for one in movements}
    if not sums:
        return dict(adapters)
    for name in adapters.keys() - sums.keys():
        nothing = np.zeros(_numbers(adapters[name]))
        path = "adapters", round, "not opened", name
        sums[name] = noisy_sum(nothing, bound, multiplier, secret, *path)
    return {name: moved(adapters[name], sums[name] / clients) for name in adapters}


def _numbers(weights: AdapterWeights) -> int:
    return sum(array.size for array in weights.values())


def movement_ratio(start: AdapterWeights, end: AdapterWeights, noise: float) -> tuple[float, bool]:
    """How far an adapter moved in relation to its noise, and whether that is more than noise.

    The squared norm of noise of D numbers is D noise^2 (1 +- sqrt(2 / D)); a movement counts as
    more than noise three of these standard deviations above.

    Args:
        start: before the first round.
        end: after the last one.
        noise: standard deviation of all noise that was added to each number; positive.
    """
    apart = [np.square(end[name] - start[name], dtype=np.float64).sum() for name in end]
    numbers = _numbers(end)
    squared = float(np.sum(apart)) / (numbers * noise**2)
    return squared**0.5, squared > 1 + 3 * (2 / numbers) ** 0.5
