"""One thread that answers all requests, in a batch that mixes adapters and that requests join and
leave between tokens."""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from fedrouter.errors import FedRouterError
from fedrouter.inference.decoding import DecodingBatch, GeneratedSequence, new_sequence
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.seeding import derive_seed
from fedrouter.serving.decision import Decision, decide
from fedrouter.serving.requests import (
    Chunk,
    Event,
    Failed,
    GenerationRequest,
    ServingError,
    Started,
    Ticket,
)


@dataclass(frozen=True)
class Limits:
    """What the engine takes on.

    Attributes:
        batch: largest number of responses that are generated together.
        queue: largest number of requests that wait for a place.
        seconds: longest time from a request's arrival to the end of its answer.
        prefill_tokens: largest number of prompt tokens, padding included, that are read between
            two tokens of the others.
    """

    batch: int = 32
    queue: int = 128
    seconds: float = 300.0
    prefill_tokens: int = 4096


@dataclass(eq=False)
class _Running:
    """A request whose responses are being generated."""

    ticket: Ticket
    sequences: list[GeneratedSequence]
    reported: list[int] = field(default_factory=list)  # tokens of each that were told of


class Engine:
    """Answers requests in a thread of its own.

    Args:
        model: the run.
        limits: what it takes on.

    Attributes:
        model: the run that answers new requests.
    """

    def __init__(self, model: RoutedModel, limits: Limits = Limits()) -> None:
        self.model = model
        self.limits = limits
        self._waiting: deque[Ticket] = deque()
        self._canceled: set[Ticket] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._number = 0
        self._running: list[_Running] = []
        self._batches: dict[RoutedModel, DecodingBatch] = {}
        self._replaced: list[RoutedModel] = []  # that may have requests under way
        self._thread = threading.Thread(target=self._work, name="fedrouter-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of requests that are being answered."""
        return len(self._running)

    def submit(self, request: GenerationRequest, listener: Callable[[Event], None]) -> Ticket:
        """Queue a request.

        Args:
            request: the request.
            listener: called in the engine's thread with each event; must not block.

        Raises:
            ServingError: the queue is full, or the engine is closed.
        """
        now = time.monotonic()
        ticket = Ticket(request, listener, deadline=now + self.limits.seconds)
        with self._changed:
            if self._closed:
                raise ServingError("the server is shutting down", 503)
            if len(self._waiting) >= self.limits.queue:
                raise ServingError(
                    f"{self.limits.queue} requests are waiting already; try again later", 429, 1
                )
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give up a request, whether it waits or is being answered; no more events come."""
        with self._changed:
            self._canceled.add(ticket)
            self._changed.notify()

    def replace(self, model: RoutedModel) -> None:
        """Let another state of the run answer new requests; those under way end with theirs.

        The state that answered before is taken off the base model with its last answer.
        """
        with self._changed:
            self._replaced.append(self.model)
            self.model = model
            self._changed.notify()

    def close(self) -> None:
        """End the thread; requests that are not answered yet fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._has_work:
                    self._changed.wait()
                if self._closed:
                    break
                canceled, self._canceled = self._canceled, set()
                self._waiting = deque(t for t in self._waiting if t not in canceled)
                late = self._late()
                admitted, model = self._next(), self.model
            self._drop({*canceled, *late})
            for ticket in late:
                ticket.listener(Failed(ServingError(self._too_late, 504)))
            self._admit(admitted, model)
            self._step()
            self._retire()
        for ticket in (*self._waiting, *(one.ticket for one in self._running)):
            ticket.listener(Failed(ServingError("the server is shutting down", 503)))

    @property
    def _has_work(self) -> bool:
        return bool(
            self._waiting or self._running or self._canceled or self._replaced or self._closed
        )

    def _late(self) -> list[Ticket]:
        """The requests that take longer than they may; they no longer wait."""
        now = time.monotonic()
        late = [ticket for ticket in self._waiting if ticket.deadline <= now]
        self._waiting = deque(t for t in self._waiting if t.deadline > now)
        return late + [one.ticket for one in self._running if one.ticket.deadline <= now]

    @property
    def _too_late(self) -> str:
        return f"no answer within {self.limits.seconds:g} seconds"

    def _next(self) -> list[Ticket]:
        """The waiting requests for whose responses there are places."""
        admitted: list[Ticket] = []
        free = self.limits.batch - sum(len(one.sequences) for one in self._running)
        while self._waiting and (self._waiting[0].request.n <= free or not self._running):
            ticket = self._waiting.popleft()
            admitted.append(ticket)
            free -= ticket.request.n
            if free <= 0:
                break
        return admitted

    def _admit(self, tickets: list[Ticket], model: RoutedModel) -> None:
        """Route new requests, read their prompts, and let them join the others."""
        if not tickets:
            return
        started = self._start(tickets, model)
        batch = self._batches.setdefault(model, DecodingBatch(model.multi_adapter))
        for group in _prefills(started, self.limits.prefill_tokens):
            try:
                batch.add([sequence for one in group for sequence in one.sequences])
            except Exception as error:  # of the model: these requests fail, the server lives
                self._fail(group, error)
                continue
            self._running += group
            self._report(group)

    def _start(self, tickets: list[Ticket], model: RoutedModel) -> list[_Running]:
        """Route the prompts of new requests together, and tell what was decided."""
        requests = [ticket.request for ticket in tickets]
        try:
            decisions = decide(model, [(one.prompt, one.task) for one in requests])
            prompts = [model.base.prompts.prompt_ids(one.prompt) for one in requests]
        except Exception as error:
            if len(tickets) > 1:  # one by one, so that the others are answered
                return [one for ticket in tickets for one in self._start([ticket], model)]
            self._refuse(tickets[0], error)
            return []
        return [self._begin(*one, model) for one in zip(tickets, decisions, prompts, strict=True)]

    def _begin(
        self, ticket: Ticket, decision: Decision, prompt: Sequence[int], model: RoutedModel
    ) -> _Running:
        """A request's responses, without a token yet."""
        request, (route, mixture) = ticket.request, decision
        ticket.listener(Started(route, mixture, len(prompt), model.round))
        self._number += 1
        sequences = []
        for index in range(request.n):
            own = request.sampling.seed
            path = (model.config.seed, "serve", self._number) if own is None else (own, "serve")
            seed = derive_seed(*path, index)
            sequences.append(new_sequence(model.base, prompt, mixture, request.sampling, seed))
        return _Running(ticket, sequences, [0] * request.n)

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        """Tell of a request that cannot be answered."""
        if isinstance(error, ServingError):
            ticket.listener(Failed(error))
        elif isinstance(error, FedRouterError):
            ticket.listener(Failed(ServingError(str(error), 400)))
        else:
            self._fail([_Running(ticket, [])], error)

    def _step(self) -> None:
        """The next token of every response."""
        for model, batch in list(self._batches.items()):
            if not batch.sequences:
                continue
            members = [r for r in self._running if set(r.sequences) & set(batch.sequences)]
            try:
                batch.step()
            except Exception as error:
                del self._batches[model]
                self._fail(members, error)
                self._running = [one for one in self._running if one not in members]
                continue
            self._report(members)

    def _retire(self) -> None:
        """Take the models off the base model that were replaced and have answered everything."""
        for model in list(self._replaced):
            batch = self._batches.get(model)
            if batch is None or not batch.sequences:
                self._batches.pop(model, None)
                self._replaced.remove(model)
                model.detach()

    def _report(self, members: list[_Running]) -> None:
        """Tell of new tokens; forget requests that are answered."""
        for one in members:
            for index, sequence in enumerate(one.sequences):
                known, new = one.reported[index], len(sequence.tokens)
                last = sequence.finish_reason is not None
                if known < 0 or (new == known and not last):
                    continue
                one.ticket.listener(
                    Chunk(
                        index,
                        sequence.text.take(last=last),
                        new - known,
                        tuple(sequence.logprobs[known:new]),
                        sequence.finish_reason,
                    )
                )
                one.reported[index] = -1 if last else new
        self._running = [one for one in self._running if any(n >= 0 for n in one.reported)]

    def _drop(self, tickets: Collection[Ticket]) -> None:
        """Free the places of requests."""
        gone = {s for one in self._running if one.ticket in tickets for s in one.sequences}
        if gone:
            self._running = [one for one in self._running if one.ticket not in tickets]
            for batch in self._batches.values():
                batch.remove(gone)

    def _fail(self, members: list[_Running], error: Exception) -> None:
        message = f"the answer failed with {type(error).__name__}; the server's log says more"
        for one in members:
            one.ticket.listener(Failed(ServingError(message, 500)))
        traceback.print_exception(error)


def _prefills(running: list[_Running], tokens: int) -> list[list[_Running]]:
    """Requests in groups whose padded prompts have at most so many tokens together."""
    groups: list[list[_Running]] = []
    for one in sorted(running, key=lambda one: len(one.sequences[0].prompt)):
        length = len(one.sequences[0].prompt)
        rows = sum(len(other.sequences) for other in groups[-1]) if groups else 0
        if groups and (rows + len(one.sequences)) * length <= tokens:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups
