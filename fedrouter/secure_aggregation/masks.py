"""Masks: key streams of ChaCha20 as vectors of integers, which cancel or are removed in the sum."""

import numpy as np
from numpy.typing import NDArray

from fedrouter.secure_aggregation.fixed_point import Bits, unsigned

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
