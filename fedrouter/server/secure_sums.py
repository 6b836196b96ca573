"""Replies of which the server sees the sum alone: the exchanges of a sum over clients."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.config import PrivacyConfig
from fedrouter.errors import MessageError
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.private_sums import noise_multiplier
from fedrouter.protocol.sum_validation import check_sum_reply
from fedrouter.protocol.sums import sum_layouts, summed_reply
from fedrouter.protocol.update_sums import adapter_of
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.routing.types import TaskProfile
from fedrouter.secure_aggregation.aggregator import Aggregator
from fedrouter.secure_aggregation.fixed_point import VectorLayout
from fedrouter.secure_aggregation.messages import (
    EncryptedShares,
    KeysOrder,
    MaskedVectors,
    PublicKeys,
    RevealedShares,
    SignedView,
    SumOrder,
    SumReply,
)
from fedrouter.secure_aggregation.rules import SumRules
from fedrouter.server.engine import Engine
from fedrouter.server.replies import Replies


class SummedReplies(Replies):
    """One reply of all clients together, and of each client no more than which tasks it has.

    If too few clients are left in one of the exchanges, nothing is opened, and all clients that
    took part are recorded as failures, with the same reason.

    Args:
        engine, tasks, expected: as for `Replies`.
        privacy: the section `[privacy]`.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Sequence[ClientRequest],
        expected: ExpectedArrays,
        privacy: PrivacyConfig,
    ) -> None:
        super().__init__(engine, tasks, expected)
        self._requests = {task.client: task for task in tasks}
        self._rules = SumRules(privacy.min_clients, privacy.threshold)
        self._layouts: dict[str, VectorLayout] = {}
        for task in tasks:
            self._layouts |= sum_layouts(task, expected)
        self._noisy = any(noise_multiplier(task, expected.private_sums) for task in tasks)

    def __iter__(self) -> Iterator[ClientReply]:
        """Yield the tasks of each client that was asked for a profile, the clients whose data
        changed, and the reply of all clients together."""
        session = secrets.token_hex(16)
        first = [replace(task, sum_order=KeysOrder(session)) for task in self._tasks]
        roster: dict[int, bytes] = {}
        held: dict[int, tuple[str, ...]] = {}
        signatures: dict[int, bytes] = {}
        for reply in self._ask(first, self._check):
            if isinstance(reply.sum_reply, PublicKeys):
                roster[reply.client] = bytes(reply.sum_reply.keys[0])
                held[reply.client] = reply.sum_reply.groups
                if reply.sum_reply.signature is not None:
                    signatures[reply.client] = bytes(reply.sum_reply.signature[0])
                yield _tasks_of(reply.client, reply.round, reply.sum_reply.tasks)
            else:
                yield reply  # its data changed
        if not self._layouts:  # nothing is summed
            return
        aggregator = Aggregator(
            session,
            self._rules,
            dict(sorted(roster.items())),
            signatures=signatures,
            noisy=self._noisy,
        )
        try:
            sums = self._sums(aggregator, held)
        except MessageError as error:
            for client in roster:
                self._fail(self._requests[client], f"{error}; nothing was opened")
            return
        together = summed_reply(self._tasks, sums, self._expected)
        self._note(together)
        yield together

    def _sums(
        self, aggregator: Aggregator, held: Mapping[int, Sequence[str]]
    ) -> dict[str, NDArray[np.float64]]:
        """The exchanges after the first: the sum of each vector that enough clients have.

        Raises:
            MessageError: too few clients are left, or their shares do not fit each other.
        """
        order = aggregator.shares_order()
        shared = self._exchange(dict.fromkeys(aggregator.roster, order))
        shares = {c: r.ciphertexts for c, r in shared.items() if isinstance(r, EncryptedShares)}
        aggregator, orders = aggregator.mask_orders(shares, held, self._layouts)
        self._note_unopened(aggregator, held)
        sent = self._exchange(orders)
        masked = {c: r.vectors for c, r in sent.items() if isinstance(r, MaskedVectors)}
        views = None
        if aggregator.signed:
            confirmed = self._exchange(dict.fromkeys(masked, aggregator.confirm_order([*masked])))
            views = {c: r.signature for c, r in confirmed.items() if isinstance(r, SignedView)}
        last = aggregator.unmask_order(list(masked), views)
        opened = self._exchange(dict.fromkeys(masked, last))
        revealed = {c: r.shares for c, r in opened.items() if isinstance(r, RevealedShares)}
        return aggregator.opened(masked, revealed, self._layouts)

    def _exchange(self, orders: Mapping[int, SumOrder]) -> dict[int, SumReply]:
        """Send an order to each client; returns the parts of those that answered."""
        requests = [
            ClientRequest(client, self._requests[client].round, sum_order=order)
            for client, order in orders.items()
        ]
        replies = self._ask(requests, self._check)
        return {r.client: r.sum_reply for r in replies if r.sum_reply is not None}

    def _check(self, request: ClientRequest, reply: ClientReply) -> None:
        check_sum_reply(request, reply, self._layouts)

    def _note_unopened(self, aggregator: Aggregator, held: Mapping[int, Sequence[str]]) -> None:
        """Record the clients whose updates are left out because too few clients have them."""
        wanted = {group.name for group in aggregator.groups}
        for client in aggregator.senders:
            names = [adapter_of(name) for name in held[client] if name not in wanted]
            for adapter in filter(None, names):
                self._fail(
                    self._requests[client],
                    f"fewer than {self._rules.min_clients} clients (privacy.min_clients) trained "
                    f"adapter {adapter}; their updates were not opened",
                )


def _tasks_of(client: int, round: int, tasks: tuple[int, ...]) -> ClientReply:
    """The reply of one client, with nothing but the global tasks that it has."""
    nothing = TaskProfile(client, np.zeros((0, 0), np.float32), (), (), (), tasks=tasks)
    return ClientReply(client, round, profile=nothing if tasks else None)
