"""The exchanges of one sum: keys, shares, masked vectors, and what opens the sum.

There are four, and a fifth between the last two if clients sign their keys.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedrouter.types import ByteArray, ClientId, IntegerArray, Name

Session = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


@dataclass(frozen=True)
class KeysOrder:
    """Exchange 1: do what the rest of the request says, keep the result, send public keys.

    Attributes:
        session: drawn by the server; different for each sum.
    """

    session: Session
    kind: Literal["keys"] = "keys"


@dataclass(frozen=True, eq=False)
class SharesOrder:
    """Exchange 2: share this session's secrets with the other clients.

    Attributes:
        session: as in `KeysOrder`.
        clients: those that sent keys, in ascending order.
        keys: their public keys, shape (clients, 64).
        signatures: of the keys, shape (clients, 96), zeros for a client that signed nothing; None:
            no client signed.
    """

    session: Session
    clients: tuple[ClientId, ...]
    keys: ByteArray
    signatures: ByteArray | None = None
    kind: Literal["shares"] = "shares"


@dataclass(frozen=True)
class Group:
    """A vector that is summed over some clients.

    Attributes:
        name: the vector's name.
        clients: those that have it.
        size: its number of values.
    """

    name: Name
    clients: tuple[ClientId, ...]
    size: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, eq=False)
class MaskOrder:
    """Exchange 3: send the masked vectors.

    Attributes:
        session: as in `KeysOrder`.
        senders: the clients that sent shares, in ascending order.
        ciphertexts: their shares for this client, shape (senders, bytes).
        groups: the vectors that are wanted.
    """

    session: Session
    senders: tuple[ClientId, ...]
    ciphertexts: ByteArray
    groups: tuple[Group, ...]
    kind: Literal["mask"] = "mask"


@dataclass(frozen=True)
class ConfirmOrder:
    """Between exchanges 3 and 4, if clients signed their keys: sign what the server said.

    Attributes:
        session: as in `KeysOrder`.
        survivors: as in `UnmaskOrder`.
    """

    session: Session
    survivors: tuple[ClientId, ...]
    kind: Literal["confirm"] = "confirm"


@dataclass(frozen=True, eq=False)
class UnmaskOrder:
    """Exchange 4: reveal a share of each client's seed or, if its vectors did not arrive, of its
    key for masks; never of both.

    Attributes:
        session: as in `KeysOrder`.
        survivors: the clients whose masked vectors arrived, in ascending order.
        senders: the number of clients that sent shares.
        signers: the clients that were told the same of the sum and signed it.
        signatures: theirs, shape (signers, 96); None: clients do not sign.
    """

    session: Session
    survivors: tuple[ClientId, ...]
    senders: Annotated[int, Field(ge=1)]
    signers: tuple[ClientId, ...] = ()
    signatures: ByteArray | None = None
    kind: Literal["unmask"] = "unmask"


SumOrder = KeysOrder | SharesOrder | MaskOrder | ConfirmOrder | UnmaskOrder


@dataclass(frozen=True, eq=False)
class PublicKeys:
    """The answer to `KeysOrder`.

    Attributes:
        keys: the two public keys, shape (1, 64).
        groups: the names of the vectors that the client has.
        tasks: for a profile, the index of the global task of each local task; otherwise empty.
        signature: of the keys, shape (1, 96); None: the client has no key to sign with.
    """

    keys: ByteArray
    groups: tuple[Name, ...]
    tasks: tuple[int, ...] = ()
    signature: ByteArray | None = None
    kind: Literal["keys"] = "keys"


@dataclass(frozen=True, eq=False)
class EncryptedShares:
    """The answer to `SharesOrder`: for each client in its order the shares of the sender's seed and
    key, encrypted for that client; shape (clients, bytes)."""

    ciphertexts: ByteArray
    kind: Literal["shares"] = "shares"


@dataclass(frozen=True, eq=False)
class MaskedVectors:
    """The answer to `MaskOrder`: the masked vectors of the groups that name the client, in their
    order."""

    vectors: tuple[IntegerArray, ...]
    kind: Literal["mask"] = "mask"


@dataclass(frozen=True, eq=False)
class SignedView:
    """The answer to `ConfirmOrder`: a signature of the keys, vectors and survivors that the client
    was told of, shape (1, 96)."""

    signature: ByteArray
    kind: Literal["confirm"] = "confirm"


@dataclass(frozen=True, eq=False)
class RevealedShares:
    """The answer to `UnmaskOrder`: for each of the `senders` in `MaskOrder` a share of its seed or
    key, shape (senders, 32)."""

    shares: ByteArray
    kind: Literal["unmask"] = "unmask"


SumReply = PublicKeys | EncryptedShares | MaskedVectors | SignedView | RevealedShares
