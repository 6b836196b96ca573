"""Masks: key streams of ChaCha20 as vectors of integers, which cancel or are removed in the sum."""

import numpy as np
from numpy.typing import NDArray

from fedrouter.secure_aggregation.fixed_point import Bits, VectorLayout, unsigned
from fedrouter.secure_aggregation.keys import KEY_BYTES, agree, derive

NONCE = bytes(16)  # a key is used for one stream only


def stream(key: bytes, size: int, bits: Bits) -> NDArray[np.unsignedinteger]:
    """`size` uniform integers modulo 2^bits: the key stream of ChaCha20, little-endian.

    Args:
        key: 32 bytes, used for nothing else.
        size: the number of integers.
        bits: of each.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    dtype = unsigned(bits)
    encryptor = Cipher(ChaCha20(key, NONCE), mode=None).encryptor()
    random = encryptor.update(bytes(size * dtype.itemsize))
    return np.frombuffer(random, dtype.newbyteorder("<")).astype(dtype)


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
