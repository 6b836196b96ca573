"""A client's part in a sum: what it answers in each of the four exchanges, as pure functions.

A client refuses what would reveal its vectors: a second order of the same kind, keys of too few
clients, vectors that too few clients have, and shares of both secrets of one client.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.secure_aggregation.fixed_point import VectorLayout
from fedrouter.secure_aggregation.keys import (
    KEY_BYTES,
    PUBLIC_BYTES,
    Secrets,
    agree,
    decrypt,
    derive,
    encrypt,
)
from fedrouter.secure_aggregation.masks import stream
from fedrouter.secure_aggregation.messages import (
    EncryptedShares,
    Group,
    MaskedVectors,
    MaskOrder,
    RevealedShares,
    SharesOrder,
    UnmaskOrder,
)
from fedrouter.secure_aggregation.rules import SumRules
from fedrouter.secure_aggregation.shares import split_secret


@dataclass(frozen=True, eq=False)
class Participant:
    """A client in one session.

    Attributes:
        client: its id.
        session: the session.
        values: its vectors by name, float64.
        layouts: how they become integers.
        secrets: its keys and its seed.
        roster: client -> public keys; empty before exchange 2.
        received: client -> the ciphertext of its shares; empty before exchange 3.
        groups: the vectors that were sent.
    """

    client: int
    session: str
    values: Mapping[str, NDArray[np.float64]]
    layouts: Mapping[str, VectorLayout]
    secrets: Secrets = field(default_factory=Secrets.draw)
    roster: Mapping[int, bytes] = field(default_factory=dict)
    received: Mapping[int, bytes] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()

    def share(self, order: SharesOrder, rules: SumRules) -> tuple["Participant", EncryptedShares]:
        """Exchange 2: the shares of the own seed and key for mask, encrypted for each client.

        Raises:
            MessageError: there are too few clients, or the keys cannot be those of the session.
        """
        if self.roster:
            raise MessageError("sum: shares were sent before; each session has one sum")
        roster = {c: bytes(key) for c, key in zip(order.clients, order.keys, strict=False)}
        sound = len(order.clients) == len(roster) == len(set(roster.values())) == len(order.keys)
        if not sound or order.keys.shape[1] != PUBLIC_BYTES:
            raise MessageError("sum: expected two keys of each client, all different")
        if roster.get(self.client) != self.secrets.public:
            raise MessageError("sum: expected the client's own keys among those of all")
        least, threshold = rules.least(len(roster)), rules.threshold_of(len(roster))
        if len(roster) < least:
            raise MessageError(f"sum: expected keys of {least} clients or more, got {len(roster)}")
        parts = [
            split_secret(secret, len(roster), threshold)
            for secret in (self.secrets.seed, self.secrets.mask)
        ]
        joint = [seed + mask for seed, mask in zip(*parts, strict=True)]
        texts = [
            encrypt(self._channel(public), text, f"{self.client} {other}")
            for (other, public), text in zip(roster.items(), joint, strict=True)
        ]
        return replace(self, roster=roster), EncryptedShares(as_rows(texts))

    def mask(self, order: MaskOrder, rules: SumRules) -> tuple["Participant", MaskedVectors]:
        """Exchange 3: the own vectors plus masks.

        Raises:
            MessageError: the vectors were sent before, or too few clients have one of them.
        """
        if not self.roster or self.received:
            raise MessageError("sum: expected one order for masked vectors, after that for shares")
        senders = set(order.senders)
        if len(senders) != len(order.ciphertexts) or not senders <= self.roster.keys():
            raise MessageError("sum: expected the shares of clients that sent keys")
        check_number(len(senders), rules.least(len(self.roster)), "that shared their secrets")
        own = [group for group in order.groups if self.client in group.clients]
        for group in order.groups:
            if not set(group.clients) <= senders or len(set(group.clients)) != len(group.clients):
                raise MessageError("sum: expected vectors of clients that sent shares")
            check_number(len(group.clients), rules.min_clients, f"with vector {group.name}")
        if not all(g.name in self.values and g.size == self.layouts[g.name].size for g in own):
            raise MessageError("sum: expected orders for vectors that the client has")
        received = {c: bytes(row) for c, row in zip(order.senders, order.ciphertexts, strict=True)}
        after = replace(self, received=received, groups=order.groups)
        agreed = {
            other: mask_secret(self.secrets.mask, self.roster[other], self.session)
            for other in senders - {self.client}
        }
        return after, MaskedVectors(tuple(self._masked(group, agreed) for group in own))

    def unmask(self, order: UnmaskOrder, rules: SumRules) -> RevealedShares:
        """Exchange 4: a share of every sender's seed, or of its key if its vectors did not arrive.
        The caller forgets the session afterwards.

        Raises:
            MessageError: the sum, or that of one vector, would be over too few clients.
        """
        survivors = set(order.survivors)
        if not self.received or not survivors <= self.received.keys():
            raise MessageError("sum: expected survivors among the clients that sent shares")
        check_number(len(survivors), rules.least(len(self.roster)), "whose vectors arrived")
        for group in self.groups:
            left = len(survivors.intersection(group.clients))
            check_number(left, rules.min_clients, f"whose vector {group.name} arrived")
        shares = []
        for sender, ciphertext in self.received.items():
            channel = self._channel(self.roster[sender])
            try:
                both = decrypt(channel, ciphertext, f"{sender} {self.client}")
            except ValueError as error:
                raise MessageError(f"sum: {error}") from None
            shares.append(both[:KEY_BYTES] if sender in survivors else both[KEY_BYTES:])
        return RevealedShares(as_rows(shares))

    def _channel(self, public: bytes) -> bytes:
        """The key under which shares go to and come from the client with these public keys."""
        try:
            return agree(self.secrets.encryption, public[KEY_BYTES:], "shares", self.session)
        except ValueError as error:
            raise MessageError(f"sum: a public key is none ({error})") from None

    def _masked(self, group: Group, agreed: Mapping[int, bytes]) -> NDArray[np.unsignedinteger]:
        layout = self.layouts[group.name]
        total = layout.encode(self.values[group.name], len(group.clients))
        total = total + own_mask(self.secrets.seed, group.name, layout)
        for other in group.clients:
            if other != self.client:
                both = common_mask(agreed[other], group.name, layout)
                total = total + both if self.client < other else total - both
        return total


def own_mask(seed: bytes, name: str, layout: VectorLayout) -> NDArray[np.unsignedinteger]:
    """The mask that a client adds to one vector by itself."""
    return stream(derive(seed, "own mask", name), layout.size, layout.bits)


def mask_secret(private: bytes, public: bytes, session: str) -> bytes:
    """The secret from which the masks that two clients have in common are derived.

    Args:
        private: the key for masks of one of the two.
        public: the public keys of the other.
        session: the session.
    """
    return agree(private, public[:KEY_BYTES], "masks", session)


def common_mask(secret: bytes, name: str, layout: VectorLayout) -> NDArray[np.unsignedinteger]:
    """The mask of one vector that two clients have in common: the one with the smaller id adds it,
    the other subtracts it."""
    return stream(derive(secret, "common mask", name), layout.size, layout.bits)


def as_rows(texts: list[bytes]) -> NDArray[np.uint8]:
    """Byte strings of the same length as the rows of a matrix."""
    return np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), -1)


def check_number(number: int, least: int, which: str) -> None:
    """Check that there are enough clients.

    Raises:
        MessageError: there are not.
    """
    if number < least:
        raise MessageError(f"sum: expected {least} clients or more {which}, got {number}")
