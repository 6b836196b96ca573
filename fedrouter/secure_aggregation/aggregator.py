"""The server's part in a sum, as pure functions: it passes on keys and shares, adds masked vectors
and removes the masks that do not cancel."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.secure_aggregation.fixed_point import VectorLayout, unsigned
from fedrouter.secure_aggregation.keys import public_key
from fedrouter.secure_aggregation.masks import common_mask, mask_secret, own_mask
from fedrouter.secure_aggregation.messages import (
    ConfirmOrder,
    Group,
    MaskOrder,
    SharesOrder,
    UnmaskOrder,
)
from fedrouter.secure_aggregation.participant import as_rows
from fedrouter.secure_aggregation.rules import SumRules, check_number
from fedrouter.secure_aggregation.shares import combine_shares
from fedrouter.secure_aggregation.signatures import SIGNATURE_BYTES


@dataclass(frozen=True, eq=False)
class Aggregator:
    """The server in one session.

    Attributes:
        session: the session.
        rules: how many clients a sum needs.
        roster: client -> public keys, in ascending order.
        groups: the vectors that are summed.
        senders: the clients that sent shares, in ascending order.
        signatures: client -> its signature of its keys; empty if no client signs.
        noisy: whether clients add noise to the sum.
    """

    session: str
    rules: SumRules
    roster: Mapping[int, bytes] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    senders: tuple[int, ...] = ()
    signatures: Mapping[int, bytes] = field(default_factory=dict)
    noisy: bool = False

    @property
    def signed(self) -> bool:
        """Whether all clients signed their keys."""
        return bool(self.roster) and self.signatures.keys() == self.roster.keys()

    def shares_order(self) -> SharesOrder:
        """Exchange 2: all public keys.

        Raises:
            MessageError: too few clients sent keys.
        """
        check_number(len(self.roster), self.rules.least(len(self.roster)), "that sent keys")
        keys = as_rows(list(self.roster.values()))
        nothing = bytes(SIGNATURE_BYTES)
        rows = [self.signatures.get(client, nothing) for client in self.roster]
        signatures = as_rows(rows) if self.signatures else None
        return SharesOrder(self.session, tuple(self.roster), keys, signatures)

    def mask_orders(
        self,
        shares: Mapping[int, NDArray[np.uint8]],
        held: Mapping[int, Sequence[str]],
        layouts: Mapping[str, VectorLayout],
    ) -> tuple["Aggregator", dict[int, MaskOrder]]:
        """Exchange 3: to each client its shares, and the vectors that enough clients have.

        Args:
            shares: client -> its ciphertexts for all clients of the roster.
            held: client -> the vectors that it has.
            layouts: of the vectors.

        Raises:
            MessageError: too few clients sent shares.
        """
        senders = tuple(sorted(shares))
        least = self.rules.least(len(self.roster))
        check_number(len(senders), least, "that shared their secrets")
        names = dict.fromkeys(name for client in senders for name in held[client])
        groups = [
            Group(n, tuple(c for c in senders if n in held[c]), layouts[n].size) for n in names
        ]
        wanted = tuple(g for g in groups if len(g.clients) >= self.rules.min_clients)
        column = {client: i for i, client in enumerate(self.roster)}
        orders = {
            client: MaskOrder(
                self.session,
                senders,
                np.stack([shares[sender][column[client]] for sender in senders]),
                wanted,
            )
            for client in senders
        }
        return replace(self, groups=wanted, senders=senders), orders

    def confirm_order(self, survivors: Sequence[int]) -> ConfirmOrder:
        """Between exchanges 3 and 4, given the clients whose masked vectors arrived.

        Raises:
            MessageError: the sum, or that of one vector, would be over too few clients.
        """
        number = len(self.roster)
        check_number(len(survivors), self.rules.least(number), "whose vectors arrived")
        for group in self.groups:
            left = len({*group.clients} & {*survivors})
            least = self.rules.vector_least(len(group.clients), number, self.noisy)
            check_number(left, least, f"whose vector {group.name} arrived")
        return ConfirmOrder(self.session, tuple(sorted(survivors)))

    def unmask_order(
        self, survivors: Sequence[int], views: Mapping[int, NDArray[np.uint8]] | None = None
    ) -> UnmaskOrder:
        """Exchange 4.

        Args:
            survivors: the clients whose masked vectors arrived.
            views: client -> its signature of what it was told; None: clients do not sign.

        Raises:
            MessageError: the sum, or that of one vector, would be over too few clients; or too few
                clients signed.
        """
        named = self.confirm_order(survivors).survivors
        if views is None:
            return UnmaskOrder(self.session, named, len(self.senders))
        least = self.rules.threshold_of(len(self.roster))
        check_number(len(views), least, "that signed the list of survivors")
        signers = tuple(sorted(views))
        signatures = np.concatenate([views[client] for client in signers])
        return UnmaskOrder(self.session, named, len(self.senders), signers, signatures)

    def opened(
        self,
        masked: Mapping[int, Sequence[NDArray[np.unsignedinteger]]],
        revealed: Mapping[int, NDArray[np.uint8]],
        layouts: Mapping[str, VectorLayout],
    ) -> dict[str, NDArray[np.float64]]:
        """The sums of the vectors over the survivors.

        Args:
            masked: survivor -> its vectors, in the order of `groups`.
            revealed: client -> the shares that it revealed, in the order of `senders`.
            layouts: of the vectors.

        Raises:
            MessageError: too few clients revealed shares, or wrong ones.
        """
        threshold = self.rules.threshold_of(len(self.roster))
        check_number(len(revealed), threshold, "that revealed shares")
        secrets = self._secrets(dict(sorted(revealed.items())[:threshold]), masked.keys())
        lost = {client: self._agreed(secrets[client]) for client in secrets.keys() - masked.keys()}
        vectors = {client: iter(own) for client, own in masked.items()}
        sums: dict[str, NDArray[np.float64]] = {}
        for group in self.groups:
            layout = layouts[group.name]
            total = np.zeros(layout.size, unsigned(layout.bits))
            for client in group.clients:
                if client in masked:
                    total = total + next(vectors[client])
                    total = total - own_mask(secrets[client], group.name, layout)
                else:
                    total = total + _left_over(client, lost[client], group, masked, layout)
            sums[group.name] = layout.decode(total, len(group.clients))
        return sums

    def _secrets(
        self, revealed: Mapping[int, NDArray[np.uint8]], survivors: Collection[int]
    ) -> dict[int, bytes]:
        """The seed of each survivor, the key for masks of each other sender."""
        column = {client: i for i, client in enumerate(self.roster)}
        secrets = {
            sender: combine_shares({column[c]: bytes(own[i]) for c, own in revealed.items()})
            for i, sender in enumerate(self.senders)
        }
        for client, secret in secrets.items():
            lost = client not in survivors
            if lost and public_key(secret) != self.roster[client][: len(secret)]:
                raise MessageError("sum: the shares that clients revealed do not fit each other")
        return secrets

    def _agreed(self, private: bytes) -> dict[int, bytes]:
        """What the client with this key for masks has in common with each other one."""
        return {c: mask_secret(private, key, self.session) for c, key in self.roster.items()}


def _left_over(
    lost: int,
    agreed: Mapping[int, bytes],
    group: Group,
    masked: Collection[int],
    layout: VectorLayout,
) -> NDArray[np.unsignedinteger]:
    """What the masks in common with a lost client leave in the sum, with the opposite sign."""
    total = np.zeros(layout.size, unsigned(layout.bits))
    for other in group.clients:
        if other in masked:
            both = common_mask(agreed[other], group.name, layout)
            total = total - both if other < lost else total + both
    return total
