"""Normal noise from a secret.

`fedrouter.seeding` is for draws that may be known: its seeds have 63 bits, and numpy's generators
can be predicted from their output. Noise that hides data needs a generator that cannot, so it is
drawn from SHAKE-256 of the secret and a path that names the purpose. The draws are of double
precision and continuous up to it; attacks on the lowest bits of floating-point noise (Mironov,
2012) are not prevented.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

BITS = 52  # so that a draw plus one half is exact in double precision


def normal_noise(secret: str, *path: str | int, size: int) -> NDArray[np.float64]:
    """Standard normal draws named by a path, equal on all machines up to rounding.

    Args:
        secret: whoever knows it can take the noise off.
        path: the purpose; noise of different paths is independent.
        size: the number of draws.

    Returns:
        float64, shape (size,).
    """
    from scipy.special import ndtri  # half a second, which most runs need not wait for

    text = "\x1f".join([secret, *(f"{type(part).__name__}:{part}" for part in path)])
    stream = hashlib.shake_256(text.encode()).digest(8 * size)
    whole = np.frombuffer(stream, "<u8") >> np.uint64(64 - BITS)
    return np.asarray(ndtri((whole + 0.5) / 2**BITS), np.float64)
