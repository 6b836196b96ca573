"""The loss of responses: cross-entropy of every response token, given the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import pad
from fedrouter.model.cross_entropy import cross_entropy
from fedrouter.model.prompt_format import Example


@dataclass(frozen=True)
class Batch:
    """Samples right-padded to the longest.

    Attributes:
        tokens, mask, response: shape (rows, longest); `response` marks the response's tokens.
        lengths: shape (rows,): number of tokens of each row.
    """

    tokens: Tensor
    mask: Tensor
    response: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, base: BaseModel, examples: Sequence[Example]) -> "Batch":
        """The batch of `examples`, in their order."""
        tokens, mask = pad(
            [example.input_ids for example in examples],
            base.prompts.pad_id,
            side="right",
            device=base.device,
        )
        starts = torch.tensor([example.prompt_length for example in examples], device=base.device)
        places = torch.arange(tokens.shape[1], device=base.device)
        return cls(tokens, mask, mask.bool() & (places >= starts.unsqueeze(1)), mask.sum(1))


def token_losses(base: BaseModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every response token, and the row each belongs to; both shape (m,)."""
    response = batch.response[:, 1:]
    keep = torch.zeros_like(batch.response)
    keep[:, :-1] = response  # the logits at a position predict the next token
    logits = base.response_logits(batch.tokens, batch.mask, keep)
    losses = cross_entropy(logits, batch.tokens[:, 1:][response])
    return losses, keep.nonzero()[:, 0]


def row_losses(base: BaseModel, batch: Batch) -> Tensor:
    """Each row's loss: the mean over its response tokens; shape (rows,)."""
    losses, rows = token_losses(base, batch)
    totals = torch.zeros(len(batch.tokens), device=losses.device).index_add(0, rows, losses)
    return totals / batch.response.sum(1)
