"""Keys of one session: X25519 key pairs, and the keys that two clients derive from them."""

import secrets
from dataclasses import dataclass, field

KEY_BYTES = 32
PUBLIC_BYTES = 2 * KEY_BYTES  # of a client: the key for masks, the key for shares
NONCE_BYTES = 12


@dataclass(frozen=True)
class Secrets:
    """What a client draws for one session and keeps for itself.

    Attributes:
        mask: private key from which the masks between two clients are derived.
        encryption: private key under which shares are encrypted.
        seed: of the client's own mask.
    """

    mask: bytes = field(repr=False)
    encryption: bytes = field(repr=False)
    seed: bytes = field(repr=False)

    @classmethod
    def draw(cls) -> "Secrets":
        """New ones, from the operating system's generator: they change no result."""
        return cls(*(secrets.token_bytes(KEY_BYTES) for _ in range(3)))

    @property
    def public(self) -> bytes:
        """The two public keys, 64 bytes."""
        return public_key(self.mask) + public_key(self.encryption)


def public_key(private: bytes) -> bytes:
    """The public key of an X25519 private key; both have 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, *purpose: str) -> bytes:
    """The 32 bytes that two clients derive from their private and each other's public key.

    Args:
        private: of one of them.
        public: of the other.
        purpose: what the result is for, the session included.

    Raises:
        ValueError: the public key is a point of small order.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    shared = X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    return derive(shared, *purpose)


def derive(secret: bytes, *purpose: str) -> bytes:
    """32 bytes by HKDF with SHA-256 from a secret, different for each purpose."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = "\x1f".join(("fedrouter secure aggregation", *purpose)).encode()
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)


def encrypt(key: bytes, text: bytes, about: str) -> bytes:
    """Encrypt and authenticate with ChaCha20-Poly1305; the result is 28 bytes longer.

    Args:
        key: 32 bytes.
        text: to be encrypted.
        about: authenticated too.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, text, about.encode())


def decrypt(key: bytes, data: bytes, about: str) -> bytes:
    """What `encrypt` was given.

    Raises:
        ValueError: the data were changed, or are about something else.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce, text = data[:NONCE_BYTES], data[NONCE_BYTES:]
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, text, about.encode())
    except InvalidTag:
        raise ValueError("the share of a client was changed on its way") from None
