"""Token ids of different lengths in batches of similar length."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

BATCH_TOKENS = 4096  # padded tokens in one forward pass; 16,384 take a CPU 1.4 times as long
BATCH_ROWS = 256


def pad(
    ids: Sequence[Sequence[int]],
    pad_id: int,
    *,
    side: str,
    device: torch.device,
    length: int = 0,
) -> tuple[Tensor, Tensor]:
    """Token ids as one int64 tensor (rows, length) with its attention mask.

    Args:
        ids: token ids of each row.
        pad_id: what fills the rows.
        side: "left" or "right", where it goes.
        device: where the tensors are.
        length: at least that of the longest row; by default that.
    """
    longest = max(length, *(len(one) for one in ids))
    tokens = np.full((len(ids), longest), pad_id, np.int64)
    mask = np.zeros((len(ids), longest), np.int64)
    for i, one in enumerate(ids):
        span = slice(0, len(one)) if side == "right" else slice(longest - len(one), longest)
        tokens[i, span] = one
        mask[i, span] = 1
    return torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device)


def fixed_batches(
    lengths: Sequence[int], rows: int, step: int, longest: int
) -> Iterator[tuple[list[int], int]]:
    """Indices in batches of one of a few shapes: `rows` rows, padded to a multiple of `step`.

    The shape of an item's batch depends on its own length alone. Kernels choose their blocking, and
    with it the order of their sums, by shape: in such batches, the last ones filled up with
    repetitions, what is computed for an item does not depend on the other items.

    Args:
        lengths: the number of tokens of each item.
        rows: rows of a batch.
        step: of the padded length.
        longest: the longest padded length that is possible.

    Yields:
        The indices of a batch, at most `rows`, and its padded length.
    """
    padded = [
        min(max(-(-length // step) * step, length), max(longest, length)) for length in lengths
    ]
    for size in sorted(set(padded), reverse=True):
        same = [i for i, one in enumerate(padded) if one == size]
        for start in range(0, len(same), rows):
            yield same[start : start + rows], size


def length_batches(
    lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS, batch_rows: int = BATCH_ROWS
) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each at most `batch_tokens` padded
    tokens and `batch_rows` rows (but at least one row)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        rows = max(1, min(batch_rows, batch_tokens // longest))
        yield order[start : start + rows]
        start += rows
