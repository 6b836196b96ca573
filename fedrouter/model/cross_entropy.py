"""Cross-entropy that is computed in chunks of positions, for vocabularies of 50,000 and more.

torch's own keeps a float32 copy of all logits for the backward pass, and makes their gradient
beside it. Here nothing but the logits themselves is as large as they are: each chunk is converted
on its own, and in the backward pass the gradient takes the logits' place in memory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK = 2**18  # logits converted to float32 at a time: 1 MiB, which stays in a CPU's caches


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] of each position, in float32.

    The backward pass overwrites `logits`: it can run once, and torch refuses it if the operation
    that computed them needs them unchanged.

    Args:
        logits: shape (n, vocabulary), of any floating dtype.
        targets: int64, shape (n,).

    Returns:
        Shape (n,).
    """
    losses: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses


class _CrossEntropy(torch.autograd.Function):
    """See `cross_entropy`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets)
        losses = torch.empty(len(targets), device=logits.device)
        for chunk in _chunks(logits):
            losses[chunk] = nn.functional.cross_entropy(
                logits[chunk].float(), targets[chunk], reduction="none"
            )
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        for chunk in _chunks(logits):
            part = logits[chunk].softmax(1, dtype=torch.float32)
            part[torch.arange(len(part), device=part.device), targets[chunk]] -= 1
            logits[chunk] = part.mul_(gradient[chunk].unsqueeze(1))
        return logits, None


def _chunks(logits: Tensor) -> list[slice]:
    """Positions in chunks of at most CHUNK logits, but at least one position."""
    step = max(1, CHUNK // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]
