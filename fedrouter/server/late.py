"""The replies that count in a round: those in time, and late ones of earlier rounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fedrouter.config import FederationConfig
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure
from fedrouter.protocol.open_requests import OpenRequest
from fedrouter.protocol.validation import ExpectedArrays, check_reply
from fedrouter.server.engine import Closing, Late, TimedEngine
from fedrouter.server.replies import CheckedReplies, LateReply, fault_of, sample_counts
from fedrouter.server.staleness import current_reply
from fedrouter.server.step_budget import mean_steps, total_steps
from fedrouter.strategies import ServerState


class TimedReplies(CheckedReplies):
    """The replies in time and then, unless `federation.late` is "drop", those of earlier rounds.

    A client that owes a reply is not asked, so that there is at most one reply of each client.

    Args:
        engine, requests, expected: as for `CheckedReplies`.
        state: the state before the round.
        settings: the section `[federation]`.
        closing: when the round is closed.

    Attributes:
        open_requests: the requests whose replies are still to come, of this round and before.
        speeds: client -> its optimizer steps per second, as last measured.
    """

    def __init__(
        self,
        engine: TimedEngine,
        requests: Sequence[ClientRequest],
        expected: ExpectedArrays,
        *,
        state: ServerState,
        settings: FederationConfig,
        closing: Closing,
    ) -> None:
        super().__init__(engine, requests, expected, sample_counts(state), closing)
        self.open_requests = state.open_requests
        self.speeds = dict(state.speeds)
        self._timed = engine
        self._state = state
        self._settings = settings
        self._steps = mean_steps(self._tasks) if settings.equal_time else {}

    def __iter__(self) -> Iterator[ClientReply]:
        """Yield the valid replies."""
        asked = {request.client: request for request in self._tasks}
        for reply in super().__iter__():
            request = asked[reply.client]
            self._measure(request)
            yield current_reply(request, reply, self._state, self._steps)
        yield from self._late_replies()
        self.open_requests += tuple(
            open_request(asked[one.client], one, self._counts, self._settings, self._steps)
            for one in self.late
        )

    def _late_replies(self) -> Iterator[ClientReply]:
        """Yield the late replies that have arrived and count; keeps the requests of the others."""
        arrived = self._timed.arrived(self.open_requests)
        earlier = self.open_requests
        self.open_requests = tuple(one for one in earlier if one.client not in arrived)
        for one in earlier:
            if one.client in arrived:
                reply = self._late_reply(one, arrived[one.client])
                if reply is not None:
                    self._note(reply)
                    self.late_replies.append(LateReply(one.client, one.request.round))
                    yield current_reply(one.request, reply, self._state, one.steps)

    def _late_reply(
        self, one: OpenRequest, answer: ClientReply | Failure | None
    ) -> ClientReply | None:
        """The answer to an open request, if it has updates that count."""
        if not isinstance(answer, Failure):
            self._measure(one.request)
        if answer is None or not one.request.train or self._settings.late == "drop":
            return None
        if isinstance(answer, ClientReply):
            answer = replace(answer, evaluation=None)
        expected = self._expected.of_rank(self._timed.rank(one.client))
        reason = fault_of(
            one.request,
            answer,
            lambda request, reply: check_reply(request, reply, expected, one.counts),
        )
        if reason is not None:
            self._fail(one.request, f"late reply to round {one.request.round}: {reason}")
            return None
        return answer if isinstance(answer, ClientReply) and answer.updates else None

    def _measure(self, request: ClientRequest) -> None:
        """Note a client's speed in the training that it has just answered."""
        seconds, steps = self._timed.durations.get(request.client, 0.0), total_steps(request)
        if seconds > 0 and steps:
            self.speeds[request.client] = steps / seconds


def open_request(
    request: ClientRequest,
    late: Late,
    counts: Mapping[int, Sequence[int]],
    settings: FederationConfig,
    steps: Mapping[str, float],
) -> OpenRequest:
    """What is kept of a request until its late reply arrives.

    Args:
        request: what was asked.
        late: what the engine says of the reply.
        counts: client -> the number of samples of each of its local tasks.
        settings: the section `[federation]`.
        steps: the steps to which updates of the round are normalized.
    """
    counted = bool(request.train) and settings.late == "next"
    named = {name for order in request.train for name in order.adapters} if counted else set()
    kept = replace(
        request,
        profile=None,
        compare=(),
        evaluate=None,
        adapters={name: one for name, one in request.adapters.items() if name in named},
    )
    held = counts.get(request.client)
    reply = late.reply if counted else None
    return OpenRequest(
        kept,
        None if held is None else tuple(held),
        steps,
        late.due,
        late.seconds,
        None if reply is None else replace(reply, evaluation=None),
    )
