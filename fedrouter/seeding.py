"""Random generators without global state.

Every draw comes from a generator derived from the run's seed and a path that names its purpose,
such as ``("train", round, client, local_task)``. Results therefore depend neither on the order in
which clients run, nor on the engine, nor on a resume after a crash.
"""

import hashlib

import numpy as np


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on every element of `path`, equal on all machines.

    >>> derive_seed(0, "train", 1) == derive_seed(0, "train", "1")
    False
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A numpy generator for the draws named by `path`."""
    return np.random.default_rng(derive_seed(seed, *path))
