"""Randomness without global state.

Every draw comes from a generator derived from the run's seed and a path that says what the draw
is for, such as ``("train", round, client, local_task)``. The order in which clients run, the engine
and a resume after a crash therefore change nothing.
"""

import hashlib

import numpy as np


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on every element of `path`, on any machine."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A numpy generator for the draws named by `path`."""
    return np.random.default_rng(derive_seed(seed, *path))
