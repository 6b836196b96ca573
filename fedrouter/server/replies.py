"""The clients' replies to some requests, each checked before it is used."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedrouter.errors import MessageError, printable
from fedrouter.protocol.messages import ClientReply, ClientRequest, EvaluationReport, Failure
from fedrouter.protocol.ranks import truncate
from fedrouter.protocol.validation import ExpectedArrays, check_reply
from fedrouter.server.engine import Closing, Engine, Late, TimedEngine
from fedrouter.strategies import ServerState, TaskState
from fedrouter.types import AdapterWeights

MAX_REASON = 300  # characters of the reason of a failure

Answer = ClientReply | Failure | Late


@dataclass(frozen=True)
class LateReply:
    """A late reply that counts in a round; an entry of `metrics.jsonl`.

    Attributes:
        client: the client's id.
        round: the round in which it was asked.
    """

    client: int
    round: int


class Replies(ABC):
    """Iterates over what a strategy learns of the replies to some requests.

    A reply counts as that of the client whose request it answers, whatever it says. A fault of any
    kind is a failure of this client alone.

    Args:
        engine: runs the requests.
        tasks: the requests.
        expected: names and shapes of arrays.

    Attributes:
        seconds: wall time of the engine.
        tokens: number of tokens trained on.
        failures: the clients without a usable reply.
        late: the clients that had not answered when the server stopped waiting.
        late_replies: the late replies to earlier requests that count now.
        evaluation: client -> its evaluation.
    """

    closing: Closing | None = None  # when the server stops waiting; None: when all have answered

    def __init__(
        self, engine: Engine, tasks: Sequence[ClientRequest], expected: ExpectedArrays
    ) -> None:
        self.seconds = 0.0
        self.tokens = 0
        self.failures: list[Failure] = []
        self.late: list[Late] = []
        self.late_replies: list[LateReply] = []
        self.evaluation: dict[int, EvaluationReport] = {}
        self._losses: list[tuple[str | None, float, int]] = []
        self._engine = engine
        self._tasks = tasks
        self._expected = expected

    @abstractmethod
    def __iter__(self) -> Iterator[ClientReply]:
        """Yield the valid replies."""

    def _ask(
        self,
        requests: Sequence[ClientRequest],
        check: Callable[[ClientRequest, ClientReply], None],
    ) -> Iterator[ClientReply]:
        """Run requests, and yield the replies that pass a check, which raises a MessageError."""
        answers = self._answers(requests)
        for request in requests:
            answer = self._next(answers)
            assert answer is not None, "an engine answers every request"
            if isinstance(answer, Late):
                self.late.append(answer)
                continue
            reason = fault_of(request, answer, check)
            if isinstance(answer, ClientReply) and reason is None:
                yield answer
            else:
                self._fail(request, reason or "")
        self._next(answers)  # lets the engine finish

    def _answers(self, requests: Sequence[ClientRequest]) -> Iterator[Answer]:
        if self.closing is None:
            return self._engine.run(requests)
        assert isinstance(self._engine, TimedEngine), "only then is there a deadline"
        return self._engine.run_until(requests, self.closing)

    def _next(self, answers: Iterator[Answer]) -> Answer | None:
        began = time.perf_counter()
        answer = next(answers, None)
        self.seconds += time.perf_counter() - began
        return answer

    def _fail(self, request: ClientRequest, reason: str) -> None:
        text = printable(reason, MAX_REASON)
        self.failures.append(Failure(request.client, request.round, text))

    def _note(self, reply: ClientReply) -> None:
        if reply.evaluation is not None:
            self.evaluation[reply.client] = reply.evaluation
        for update in reply.updates:
            self.tokens += update.tokens
            self._losses.append((update.adapter, update.loss, update.samples))

    @property
    def mean_loss(self) -> float | None:
        """Mean training loss, weighted by samples; None without updates."""
        return _mean(self._losses)

    @property
    def mean_losses(self) -> dict[str, float]:
        """The same for each received adapter, by its name."""
        names = sorted({name for name, *_ in self._losses if name is not None})
        means = {name: _mean([one for one in self._losses if one[0] == name]) for name in names}
        return {name: mean for name, mean in means.items() if mean is not None}


def _mean(losses: Sequence[tuple[str | None, float, int]]) -> float | None:
    """The mean of losses, weighted by samples; None if there are no samples."""
    samples = sum(count for *_, count in losses)
    return sum(loss * count for _, loss, count in losses) / samples if samples else None


def fault_of(
    request: ClientRequest,
    answer: ClientReply | Failure,
    check: Callable[[ClientRequest, ClientReply], None],
) -> str | None:
    """Why an answer is no use; None if it is a valid reply."""
    if isinstance(answer, Failure):
        return answer.reason
    try:
        check(request, answer)
    except MessageError as error:
        return str(error)
    except Exception as error:  # no fault of one reply may end the run
        return f"the reply cannot be checked ({type(error).__name__})"
    return None


def sample_counts(state: ServerState) -> Mapping[int, Sequence[int]]:
    """Client -> the number of samples of each of its local tasks, as its profile says."""
    return state.counts if isinstance(state, TaskState) else {}


def limit_ranks(
    tasks: Sequence[ClientRequest], ranks: Mapping[int, int | None]
) -> Sequence[ClientRequest]:
    """The requests with no more components of an adapter than the client's rank."""
    limited: dict[tuple[int, int], AdapterWeights] = {}  # one array for all clients of a rank

    def limit(weights: AdapterWeights, rank: int) -> AdapterWeights:
        key = id(weights), rank
        if key not in limited:
            limited[key] = truncate(weights, rank)
        return limited[key]

    return [
        task
        if (rank := ranks[task.client]) is None
        else replace(task, adapters={name: limit(one, rank) for name, one in task.adapters.items()})
        for task in tasks
    ]


class CheckedReplies(Replies):
    """The replies of single clients, each checked against its request.

    Args:
        engine, tasks, expected: as for `Replies`.
        counts: client -> the number of samples of each of its local tasks.
        closing: when the server stops waiting; None: when all clients have answered.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Sequence[ClientRequest],
        expected: ExpectedArrays,
        counts: Mapping[int, Sequence[int]],
        closing: Closing | None = None,
    ) -> None:
        self.closing = closing
        self._ranks = {task.client: engine.rank(task.client) for task in tasks}
        super().__init__(engine, limit_ranks(tasks, self._ranks), expected)
        self._counts = counts

    def __iter__(self) -> Iterator[ClientReply]:
        """Yield the valid replies."""
        for reply in self._ask(self._tasks, self._check):
            self._note(reply)
            yield reply

    def _check(self, request: ClientRequest, reply: ClientReply) -> None:
        expected = self._expected.of_rank(self._ranks[request.client])
        check_reply(request, reply, expected, self._counts.get(request.client))
