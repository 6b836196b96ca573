"""Hostile clients: an engine that changes what some of its clients send.

Attacks know all honest replies of the round. Those on updates change what an honestly trained
reply says; those on profiles invent local tasks, which nobody trains.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.protocol.messages import ClientReply, ClientRequest, ComparedLosses, Failure, Update
from fedrouter.protocol.profile_orders import ClusterPrompts, OrderWithGeometry
from fedrouter.routing.types import TaskProfile
from fedrouter.seeding import generator
from fedrouter.server.engine import Engine, Traffic
from fedrouter.types import AdapterWeights

Arrays = dict[str, NDArray[np.float32]]
INVENTED = 8  # local tasks of one client, the most that task discovery accepts
MANY = 10**8  # samples of a client, in a lie that is within the limits of a message


@dataclass(frozen=True)
class Moment:
    """What an attack on an update knows.

    Attributes:
        received: the adapter before training.
        trained: the one that the client trained honestly.
        honest: movements of the honest clients for the same adapter; if there are none, for all.
        everyone: movements of the honest clients for all adapters.
        draws: a generator.
    """

    received: AdapterWeights
    trained: AdapterWeights
    honest: Sequence[Arrays]
    everyone: Sequence[Arrays]
    draws: np.random.Generator


def movement(trained: AdapterWeights, received: AdapterWeights) -> Arrays:
    """Trained minus received."""
    return {name: trained[name] - received[name] for name in trained}


def _moved(now: Moment, step: Callable[[str], NDArray[np.floating]]) -> Arrays:
    return {
        name: np.clip(now.received[name] + step(name), -1e6, 1e6).astype(np.float32)
        for name in now.trained
    }


def _own(now: Moment, name: str) -> NDArray[np.float32]:
    return now.trained[name] - now.received[name]


def _mean(now: Moment, name: str) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = np.mean([one[name] for one in now.honest], axis=0)
    return mean


def _deviation(now: Moment, name: str) -> NDArray[np.float32]:
    deviation: NDArray[np.float32] = np.std([one[name] for one in now.everyone], axis=0)
    return deviation


# "A little is enough" (Baruch et al., 2019) with z = 1.5, inner-product manipulation (Xie et al.,
# 2020) with epsilon = 0.5.
ON_UPDATES: Mapping[str, Callable[[Moment], Arrays]] = {
    "sign flip": lambda now: _moved(now, lambda name: -_own(now, name)),
    "x1000": lambda now: _moved(now, lambda name: 1000 * _own(now, name)),
    "flipped x10": lambda now: _moved(now, lambda name: -10 * _own(now, name)),
    "zeros": lambda now: {name: np.zeros_like(array) for name, array in now.trained.items()},
    "noise": lambda now: _moved(
        now, lambda name: _own(now, name) + now.draws.normal(0, 0.1, now.trained[name].shape)
    ),
    "a little": lambda now: _moved(
        now, lambda name: _mean(now, name) - 1.5 * _deviation(now, name)
    ),
    "inner product": lambda now: _moved(now, lambda name: -0.5 * _mean(now, name)),
    "false counts": lambda now: dict(now.received),
}
ON_PROFILES = ("invented tasks", "placed centroids", "false counts", "false losses")
ATTACKS = ("none", *ON_UPDATES, "label flip", "swapped", *ON_PROFILES[:2], "false losses")


class Hostile:
    """An engine some of whose clients are hostile.

    Args:
        engine: the clients, all honest.
        attack: one of `ATTACKS`.
        clients: the hostile ones.
        seed: of the attack's draws.
    """

    def __init__(self, engine: Engine, attack: str, clients: Sequence[int], seed: int) -> None:
        self._engine = engine
        self._attack = attack
        self._hostile = frozenset(clients)
        self._seed = seed
        self._invented: dict[int, Sequence[int | None]] = {}  # real local task of each claimed one

    @property
    def traffic(self) -> Traffic:
        """That of the honest engine."""
        return self._engine.traffic

    @traffic.setter
    def traffic(self, value: Traffic) -> None:
        self._engine.traffic = value

    def online(self) -> Sequence[int]:
        """All clients."""
        return self._engine.online()

    def rank(self, client: int) -> int | None:
        """As the engine."""
        return self._engine.rank(client)

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        """The replies, those of hostile clients changed."""
        answers = list(self._engine.run([self._real(task) for task in tasks]))
        pairs = [(t, a) for t, a in zip(tasks, answers, strict=True) if isinstance(a, ClientReply)]
        honest = [(t, a) for t, a in pairs if t.client not in self._hostile]
        for task, answer in zip(tasks, answers, strict=True):
            if task.client in self._hostile and isinstance(answer, ClientReply):
                yield self._changed(task, answer, honest)
            else:
                yield answer

    def _real(self, task: ClientRequest) -> ClientRequest:
        """A request without orders about local tasks that the client invented."""
        real = self._invented.get(task.client)
        if real is None:
            return task
        train = tuple(
            replace(order, local_task=real[order.local_task])
            for order in task.train
            if order.local_task is not None and real[order.local_task] is not None
        )
        compare = tuple(
            replace(order, local_task=at)
            for order in task.compare
            if (at := real[order.local_task]) is not None
        )
        return replace(task, train=train, compare=compare)

    def _changed(
        self,
        task: ClientRequest,
        reply: ClientReply,
        honest: Sequence[tuple[ClientRequest, ClientReply]],
    ) -> ClientReply:
        """What a hostile client sends."""
        reply = self._completed(task, reply)
        if reply.profile is not None and self._attack in ON_PROFILES:
            others = [a.profile for _, a in honest if a.profile is not None]
            reply = replace(reply, profile=self._profile(task, reply.profile, others))
        if self._attack == "false losses" and reply.losses:
            alike = [
                replace(one, base=5.0, adapters=dict.fromkeys(one.adapters, 1.0), samples=32)
                for one in reply.losses
            ]
            reply = replace(reply, losses=tuple(alike))
        updates = [self._update(task, update, honest) for update in reply.updates]
        if self._attack == "swapped" and len(updates) > 1:
            weights = [update.weights for update in updates]
            rotated = [*weights[1:], weights[0]]
            updates = [replace(u, weights=w) for u, w in zip(updates, rotated, strict=True)]
        return replace(reply, updates=tuple(updates))

    def _completed(self, task: ClientRequest, reply: ClientReply) -> ClientReply:
        """The reply with answers to the orders about invented local tasks."""
        real = self._invented.get(task.client)
        if real is None:
            return reply
        updates, losses = iter(reply.updates), iter(reply.losses)
        trained = []
        for slot, order in enumerate(task.train):
            name = order.adapters[0]
            if order.local_task is not None and real[order.local_task] is not None:
                trained.append(replace(next(updates), slot=slot))
            else:
                trained.append(Update(slot, name, task.adapters[name], 20, 1.0, 1))
        compared = [
            replace(next(losses), local_task=order.local_task)
            if real[order.local_task] is not None
            else ComparedLosses(order.local_task, 32, 5.0, dict.fromkeys(order.adapters, 1.0))
            for order in task.compare
        ]
        return replace(reply, updates=tuple(trained), losses=tuple(compared))

    def _update(
        self,
        task: ClientRequest,
        update: Update,
        honest: Sequence[tuple[ClientRequest, ClientReply]],
    ) -> Update:
        change = ON_UPDATES.get(self._attack)
        if change is None or update.adapter is None or not update.weights:
            return update
        moves = [
            (sent.adapter, movement(sent.weights, asked.adapters[sent.adapter]))
            for asked, reply in honest
            for sent in reply.updates
            if sent.adapter is not None
        ]
        everyone = [move for _, move in moves]
        now = Moment(
            received=task.adapters[update.adapter],
            trained=update.weights,
            honest=[move for name, move in moves if name == update.adapter] or everyone,
            everyone=everyone,
            draws=generator(self._seed, "attack", task.round, task.client, update.slot),
        )
        samples = MANY if self._attack == "false counts" else update.samples
        return replace(update, weights=change(now), samples=samples)

    def _profile(
        self, task: ClientRequest, profile: TaskProfile, others: Sequence[TaskProfile]
    ) -> TaskProfile:
        number = len(profile.counts)
        if self._attack == "false counts":
            return replace(profile, counts=(MANY // number,) * number)
        if self._attack == "placed centroids":
            places = np.concatenate([other.centroids for other in others])
            draws = generator(self._seed, "places", task.round, task.client)
            return replace(profile, centroids=places[draws.permutation(len(places))[:number]])
        if isinstance(task.profile, OrderWithGeometry):
            return self._everything(task.profile, task.client, profile)
        if self._attack == "invented tasks" and isinstance(task.profile, ClusterPrompts):
            return self._imagined(task, profile)
        return profile

    def _everything(
        self, order: OrderWithGeometry, client: int, profile: TaskProfile
    ) -> TaskProfile:
        """A claim to hold every global task, with 500 samples of each."""
        number = len(order.geometry.tasks)
        held = [profile.tasks.index(t) if t in profile.tasks else None for t in range(number)]
        self._invented[client] = held
        return replace(
            profile,
            centroids=order.geometry.centroids,
            counts=(500,) * number,
            second_moments=(float(np.mean(profile.second_moments)),) * number,
            fourth_moments=(float(np.mean(profile.fourth_moments)),) * number,
            tasks=tuple(range(number)),
        )

    def _imagined(self, task: ClientRequest, profile: TaskProfile) -> TaskProfile:
        """More local tasks than the client has, at random places around the real ones."""
        number = len(profile.counts)
        draws = generator(self._seed, "imagined", task.client)
        near = profile.centroids[draws.integers(number, size=INVENTED - number)]
        spread = float(np.mean(profile.second_moments)) ** 0.5
        shift = draws.normal(0, spread / near.shape[1] ** 0.5 * 3, near.shape)
        self._invented[task.client] = [*range(number), *[None] * (INVENTED - number)]
        return replace(
            profile,
            centroids=np.concatenate([profile.centroids, near + shift]).astype(np.float32),
            counts=(MANY // INVENTED,) * INVENTED,
            second_moments=(float(np.mean(profile.second_moments)),) * INVENTED,
            fourth_moments=(float(np.mean(profile.fourth_moments)),) * INVENTED,
        )
