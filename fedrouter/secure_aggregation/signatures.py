"""Signatures of clients, by which they know each other's keys without trusting the server.

A client signs the public keys that it sends, and later what it was told of the sum (Bonawitz et
al., 2017, section 6: active adversaries). Others verify it by a list of public keys that no server
can change. Signatures are those of ECDSA over P-384 with SHA-384, the keys of `fedrouter deploy`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError, MissingExtraError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

NUMBER_BYTES = 48  # of each of the two numbers of a signature
SIGNATURE_BYTES = 2 * NUMBER_BYTES
CURVE = "secp384r1"


@dataclass(frozen=True, eq=False)
class SigningKeys:
    """A client's own key, and the public keys that it trusts.

    Attributes:
        private: the client's own key, which outlives runs.
        trusted: client -> its public key.
    """

    private: "EllipticCurvePrivateKey" = field(repr=False)
    trusted: "Mapping[int, EllipticCurvePublicKey]" = field(repr=False)


def read_signing_keys(private: bytes, trusted: str, client: int) -> SigningKeys:
    """The keys in files.

    Args:
        private: a private key as `ssh-keygen -t ecdsa -b 384` writes it.
        trusted: a line for each client: its id and its public key, as in a file `.pub`. Empty lines
            and lines that begin with # are skipped. (The format allowed_signers of OpenSSH.)
        client: the id of the client whose key is `private`.

    Raises:
        ValueError: one line that says what is wrong with which of the two.
        MissingExtraError: the package for it is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    except ImportError as error:
        raise MissingExtraError("privacy.secure_aggregation", "privacy") from error
    try:
        key = load_ssh_private_key(private, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the private key is none without a password") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != CURVE:
        raise ValueError("the private key is not one of ECDSA with 384 bits")
    known = dict(_public_keys(trusted))
    if client not in known:
        raise ValueError(f"the trusted keys have none of client {client}, which is this one")
    if known[client] != key.public_key():
        raise ValueError(f"the trusted key of client {client} is not that of its private key")
    return SigningKeys(key, known)


def _public_keys(text: str) -> "Iterator[tuple[int, EllipticCurvePublicKey]]":
    """The client and the key of each line, none twice."""
    seen: set[Any] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        client, _, key = line.strip().partition(" ")
        if not client.isascii() or not client.isdecimal():
            raise ValueError(f"line {number} of the trusted keys begins with no client's id")
        public = _public_key(key, number)
        numbers = public.public_numbers()
        if int(client) in seen or (numbers.x, numbers.y) in seen:
            raise ValueError(f"line {number} of the trusted keys has a client or a key again")
        seen |= {int(client), (numbers.x, numbers.y)}
        yield int(client), public


def _public_key(text: str, number: int) -> "EllipticCurvePublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        public = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, EllipticCurvePublicKey) or public.curve.name != CURVE:
        raise ValueError(f"line {number} of the trusted keys has no public key of ECDSA (P-384)")
    return public


@dataclass(frozen=True, eq=False)
class SumSignatures:
    """What clients sign in one sum.

    Attributes:
        keys: whose signatures count.
        run: of the run's configuration, so that all clients of a sum have the same.
        round: of the sum.
        session: of the sum.
    """

    keys: SigningKeys
    run: str
    round: int
    session: str

    def sign(self, client: int, kind: str, content: bytes) -> bytes:
        """The own signature, 96 bytes.

        Args:
            client: the own id.
            kind: what is signed: "keys" or "view".
            content: the public keys, or the digest of what the client was told.
        """
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA384

        statement = self._statement(client, kind, content)
        numbers = decode_dss_signature(self.keys.private.sign(statement, ECDSA(SHA384())))
        return b"".join(number.to_bytes(NUMBER_BYTES, "big") for number in numbers)

    def check(self, client: int, kind: str, content: bytes, signature: bytes) -> None:
        """Verify the signature of a client.

        Raises:
            MessageError: the client is not trusted, or the signature is of something else.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA384

        if client not in self.keys.trusted:
            raise MessageError(f"sum: client {client} has no key among the trusted keys")
        if not any(signature):
            raise MessageError(f"sum: client {client} has not signed its {kind}; give it a key")
        r, s = (int.from_bytes(signature[i:][:NUMBER_BYTES], "big") for i in (0, NUMBER_BYTES))
        try:
            self.keys.trusted[client].verify(
                encode_dss_signature(r, s), self._statement(client, kind, content), ECDSA(SHA384())
            )
        except InvalidSignature:
            raise MessageError(
                f"sum: expected the {kind} of client {client} signed by its trusted key, for this "
                "run, round and session"
            ) from None

    def _statement(self, client: int, kind: str, content: bytes) -> bytes:
        parts = "fedrouter secure aggregation", kind, self.run, self.round, self.session, client
        return "\x1f".join([*map(str, parts), content.hex()]).encode()


def check_signatures(
    signatures: SumSignatures,
    kind: str,
    contents: Mapping[int, bytes],
    given: NDArray[np.uint8] | None,
) -> None:
    """Verify the signature of each client.

    Args:
        signatures: whose signatures count.
        kind: what they are of.
        contents: client -> what it should have signed.
        given: shape (clients, 96), in the same order.

    Raises:
        MessageError: a signature is missing or wrong.
    """
    if given is None or given.shape != (len(contents), SIGNATURE_BYTES):
        raise MessageError(f"sum: expected a signature of each client's {kind}")
    for (client, content), row in zip(contents.items(), given, strict=True):
        signatures.check(client, kind, content, bytes(row))
