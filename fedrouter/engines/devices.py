"""Simulated time: how long each client of a run on one machine would take, and when it is absent.

The clients are those of another engine. A client takes the time of its training, its tokens by its
speed, and of its messages, their bytes by its bandwidth. What else it does, such as profiling or
evaluation, takes no time. Every draw comes from the run's seed, the round and the client, so that
times depend neither on the engine nor on the order of clients.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf

from fedrouter.config import DeviceClass, ResolvedConfig
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure
from fedrouter.protocol.open_requests import OpenRequest
from fedrouter.protocol.sizes import exchange_bytes
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.seeding import generator
from fedrouter.server.budget import MEGABYTE
from fedrouter.server.engine import Closing, Engine, Late, Traffic

ABSENT = "it is absent (federation.devices)"


def device_classes(config: ResolvedConfig) -> list[DeviceClass]:
    """The class of each client: shares of the clients in a seeded random order."""
    settings = config.federation
    ends, total = [], 0.0
    for one in settings.devices:
        total += one.share
        ends.append(int(total * settings.clients + 0.5))
    ends[-1] = settings.clients
    order = generator(config.seed, "devices").permutation(settings.clients).tolist()
    classes = list(settings.devices[:1]) * settings.clients
    begin = 0
    for one, end in zip(settings.devices, ends, strict=True):
        for client in order[begin:end]:
            classes[client] = one
        begin = end
    return classes


def closing_time(
    replied: Iterable[float], others: Iterable[float], closing: Closing, timeout_s: float
) -> float:
    """The time after which the server stops waiting.

    Args:
        replied: when each client replies that does within `timeout_s`.
        others: when each of the others is known to have failed; infinity: it is absent.
        closing: when to stop.
        timeout_s: the longest wait for a client.
    """
    times = sorted(replied)
    answered = max((*times, *(min(time, timeout_s) for time in others)), default=0.0)

    def reached(number: int) -> float:
        """When so many have replied or, if they never do, all clients have answered."""
        return times[number - 1] if 0 < number <= len(times) else answered

    end = reached(closing.wanted)
    if closing.deadline_s is not None:
        end = min(end, max(closing.deadline_s, reached(closing.least)))
    return end


class SimulatedDevices:
    """The clients of another engine as devices of `federation.devices`; a `TimedEngine`.

    Clients are absent from training only, and do not receive the request then. Late ones do their
    work at once, and their replies are in `Late` until they are due. An evaluation alone, as after
    the last round, takes no time.

    Args:
        engine: runs the requests.
        config: the run's configuration.
        expected: what the arrays of the run look like.
    """

    def __init__(self, engine: Engine, config: ResolvedConfig, expected: ExpectedArrays) -> None:
        self.simulated_s: float | None = 0.0
        self.durations: dict[int, float] = {}
        self._engine = engine
        self._config = config
        self._expected = expected
        self._classes = device_classes(config)

    @property
    def traffic(self) -> Traffic:
        """Bytes sent and received so far."""
        return self._engine.traffic

    @traffic.setter
    def traffic(self, traffic: Traffic) -> None:
        self._engine.traffic = traffic

    def online(self) -> Sequence[int]:
        """All clients: the server does not know who is absent."""
        return self._engine.online()

    def rank(self, client: int) -> int | None:
        """The rank of a client's adapters; None: that of the run."""
        return self._engine.rank(client)

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
        """The replies in the order of the requests; all are waited for."""
        closing = Closing(len(tasks), len(tasks))
        for answer in self.run_until(tasks, closing):
            assert not isinstance(answer, Late), "nobody is late without a deadline"
            yield answer

    def run_until(
        self, tasks: Sequence[ClientRequest], closing: Closing
    ) -> Iterator[ClientReply | Failure | Late]:
        """The replies in the order of the requests; a `Late` holds a reply and when it is due."""
        if not any(task.train or task.profile or task.compare for task in tasks):
            yield from self._engine.run(tasks)
            return
        present = [task for task in tasks if not self._absent(task)]
        answers = self._engine.run(present)
        known: Mapping[int, ClientReply | Failure] = {}
        if any(task.train for task in tasks):  # whose tokens are known afterwards
            known = {task.client: one for task, one in zip(present, answers, strict=True)}
            answers = iter(known.values())
        times = {task.client: self._seconds(task, known.get(task.client)) for task in present}
        end = self._close(tasks, times, known, closing)
        for task in tasks:
            answer = next(answers) if task.client in times else self._failure(task, ABSENT)
            yield self._in_time(task, answer, times.get(task.client, inf), end)
        next(answers, None)  # lets the engine finish

    def arrived(
        self, requests: Sequence[OpenRequest]
    ) -> Mapping[int, ClientReply | Failure | None]:
        """The answers to open requests that are due."""
        assert self.simulated_s is not None
        due = [one for one in requests if one.due is not None and one.due <= self.simulated_s]
        self.durations |= {one.client: one.seconds for one in due}
        return {one.client: one.reply for one in due}

    def _close(
        self,
        tasks: Sequence[ClientRequest],
        times: Mapping[int, float],
        known: Mapping[int, ClientReply | Failure],
        closing: Closing,
    ) -> float:
        """Move the clock to when the requests are closed; returns the seconds until then."""
        failed = {c for c, answer in known.items() if isinstance(answer, Failure)}
        timeout = self._config.federation.timeout_s
        replied = {c: t for c, t in times.items() if c not in failed and t <= timeout}
        others = (times.get(t.client, inf) for t in tasks if t.client not in replied)
        end = closing_time(replied.values(), others, closing, timeout)
        assert self.simulated_s is not None
        self.simulated_s += end
        return end

    def _in_time(
        self, task: ClientRequest, answer: ClientReply | Failure, seconds: float, end: float
    ) -> ClientReply | Failure | Late:
        """The answer, if it comes before the end."""
        timeout = self._config.federation.timeout_s
        if isinstance(answer, Failure):
            return answer
        if seconds > timeout:
            return self._failure(task, f"no reply within federation.timeout_s = {timeout:g}")
        if seconds <= end:
            self.durations[task.client] = seconds
            return answer
        assert self.simulated_s is not None
        return Late(task.client, self.simulated_s - end + seconds, seconds, answer)

    def _failure(self, task: ClientRequest, reason: str) -> Failure:
        return Failure(task.client, task.round, reason)

    def _absent(self, task: ClientRequest) -> bool:
        """Whether a client is absent from a round's training."""
        if not task.train:
            return False
        draw = generator(self._config.seed, "devices", "absent", task.round, task.client).random()
        return bool(draw < self._classes[task.client].absent)

    def _seconds(self, task: ClientRequest, answer: ClientReply | Failure | None) -> float:
        """The time that a client takes for a request."""
        device = self._classes[task.client]
        draws = generator(self._config.seed, "devices", "speed", task.round, task.client)
        speed = device.speed * float(draws.lognormal(0.0, device.variation))
        updates = answer.updates if isinstance(answer, ClientReply) else ()
        expected = self._expected.of_rank(self.rank(task.client))
        size = exchange_bytes([_training(task)], expected, self._config.federation.transport)
        tokens = sum(update.tokens for update in updates)
        return tokens / speed + size / MEGABYTE / device.mb_per_s


def _training(task: ClientRequest) -> ClientRequest:
    """A request without its evaluation, whose adapters no device would be sent."""
    if task.evaluate is None:
        return task
    named = {name for order in task.train for name in order.adapters}
    named |= {order.companion.adapter for order in task.train if order.companion}
    named |= {order.proximal.toward for order in task.train if order.proximal}
    adapters = {name: one for name, one in task.adapters.items() if name in named}
    return replace(task, evaluate=None, adapters=adapters)
