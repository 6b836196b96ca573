"""A client's part in a sum: what it answers in each of the exchanges, as pure functions.

A client refuses what would reveal its vectors: a second order of the same kind, keys of too few
clients, vectors that too few clients have, and shares of both secrets of one client. If it knows
the public keys of the others (`signatures`), it also refuses keys that these have not signed, and
to open a sum of which fewer clients than the threshold were told the same.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
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
    encrypt,
)
from fedrouter.secure_aggregation.masks import common_mask, mask_secret, own_mask
from fedrouter.secure_aggregation.messages import (
    ConfirmOrder,
    EncryptedShares,
    Group,
    MaskedVectors,
    MaskOrder,
    RevealedShares,
    SharesOrder,
    SignedView,
    UnmaskOrder,
)
from fedrouter.secure_aggregation.noise_shares import noise_share
from fedrouter.secure_aggregation.rules import SumRules, check_number
from fedrouter.secure_aggregation.shares import split_secret
from fedrouter.secure_aggregation.signatures import SumSignatures, check_signatures


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
        confirmed: the survivors whose list it signed; empty before.
        question: digest of what was asked, on which the noise depends.
        multiplier: the noise multiplier of the sum; 0: clients add no noise.
    """

    client: int
    session: str
    values: Mapping[str, NDArray[np.float64]]
    layouts: Mapping[str, VectorLayout]
    secrets: Secrets = field(default_factory=Secrets.draw)
    roster: Mapping[int, bytes] = field(default_factory=dict)
    received: Mapping[int, bytes] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    confirmed: tuple[int, ...] = ()
    question: str = ""
    multiplier: float = 0.0

    def share(
        self, order: SharesOrder, rules: SumRules, signatures: SumSignatures | None = None
    ) -> tuple["Participant", EncryptedShares]:
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
        if signatures is not None:
            check_signatures(signatures, "keys", roster, order.signatures)
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

    def mask(
        self, order: MaskOrder, rules: SumRules, secret: str = ""
    ) -> tuple["Participant", MaskedVectors]:
        """Exchange 3: the own vectors plus noise and masks.

        Args:
            order: the order.
            rules: how many clients a sum needs.
            secret: what the noise is derived from, if there is any.

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
        if len({group.name for group in order.groups}) < len(order.groups):
            raise MessageError("sum: expected each vector once; no mask is used twice")
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
        vectors = []
        for group in own:
            vector = self._masked(group, agreed)
            if self.multiplier:
                vector = vector + after._noise(group, rules, secret)
            vectors.append(vector)
        return after, MaskedVectors(tuple(vectors))

    def confirm(
        self, order: ConfirmOrder, rules: SumRules, signatures: SumSignatures | None
    ) -> tuple["Participant", SignedView]:
        """Between exchanges 3 and 4: sign once what the server said of the sum.

        Raises:
            MessageError: the client has no key to sign with, or has signed before; or the sum, or
                that of one vector, would be over too few clients.
        """
        if signatures is None or self.confirmed:
            raise MessageError("sum: expected one order to sign, of a client that has a key")
        self._check_survivors(order.survivors, rules)
        signature = signatures.sign(self.client, "view", self._view(order.survivors))
        return replace(self, confirmed=order.survivors), SignedView(as_rows([signature]))

    def unmask(
        self, order: UnmaskOrder, rules: SumRules, signatures: SumSignatures | None = None
    ) -> RevealedShares:
        """Exchange 4: a share of every sender's seed, or of its key if its vectors did not arrive.
        The caller forgets the session afterwards.

        Raises:
            MessageError: the sum, or that of one vector, would be over too few clients; or too few
                clients signed that they were told the same of it.
        """
        self._check_survivors(order.survivors, rules)
        if signatures is not None:
            self._check_confirmed(order, rules, signatures)
        survivors, shares = set(order.survivors), []
        for sender, ciphertext in self.received.items():
            channel = self._channel(self.roster[sender])
            try:
                both = decrypt(channel, ciphertext, f"{sender} {self.client}")
            except ValueError as error:
                raise MessageError(f"sum: {error}") from None
            shares.append(both[:KEY_BYTES] if sender in survivors else both[KEY_BYTES:])
        return RevealedShares(as_rows(shares))

    @property
    def release(self) -> str:
        """Digest of what the noise depends on, beside the secret: what was asked, which clients
        have which vector, and of how many clients the threshold is a part."""
        groups = [(group.name, sorted(group.clients)) for group in self.groups]
        told = [self.question, groups, len(self.roster)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @property
    def answer(self) -> str:
        """Digest of the client's values."""
        digest = hashlib.sha256()
        for name, vector in sorted(self.values.items()):
            digest.update(f"{name} {len(vector)} ".encode() + vector.astype("<f8").tobytes())
        return digest.hexdigest()

    def _check_survivors(self, survivors: Sequence[int], rules: SumRules) -> None:
        if not self.received or not set(survivors) <= self.received.keys():
            raise MessageError("sum: expected survivors among the clients that sent shares")
        number = len(self.roster)
        check_number(len(set(survivors)), rules.least(number), "whose vectors arrived")
        for group in self.groups:
            left = len(set(survivors).intersection(group.clients))
            least = rules.vector_least(len(group.clients), number, self.multiplier > 0)
            check_number(left, least, f"whose vector {group.name} arrived")

    def _check_confirmed(
        self, order: UnmaskOrder, rules: SumRules, signatures: SumSignatures
    ) -> None:
        """Check that enough survivors signed what the client itself was told of the sum."""
        if not self.confirmed or order.survivors != self.confirmed:
            raise MessageError("sum: expected the survivors whose list the client signed")
        signers, view = set(order.signers), self._view(order.survivors)
        if not signers <= set(order.survivors) or len(signers) < len(order.signers):
            raise MessageError("sum: expected signatures of different survivors")
        check_signatures(signatures, "view", dict.fromkeys(order.signers, view), order.signatures)
        least = rules.threshold_of(len(self.roster))
        check_number(len(signers), least, "that signed the list of survivors")

    def _view(self, survivors: Sequence[int]) -> bytes:
        """Digest of what the server said of the sum: keys, shares, vectors, survivors."""
        said = [
            [[client, key.hex()] for client, key in self.roster.items()],
            list(self.received),
            [[group.name, group.clients, group.size] for group in self.groups],
            list(survivors),
        ]
        return hashlib.sha256(json.dumps(said).encode()).digest()

    def _noise(self, group: Group, rules: SumRules, secret: str) -> NDArray[np.unsignedinteger]:
        """The own share of the noise on a vector's sum. It is the same if the same is asked of the
        same clients again, and no other sum has it."""
        number = len(group.clients)
        least = rules.noise_least(number, len(self.roster))
        path = "share", self.release, self.client, group.name
        return noise_share(self.layouts[group.name], number, least, secret, *path)

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


def as_rows(texts: list[bytes]) -> NDArray[np.uint8]:
    """Byte strings of the same length as the rows of a matrix."""
    return np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), -1)
