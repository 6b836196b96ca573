"""How the hidden states of a prompt become one vector."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from fedrouter.config.resolve import ResolvedModelConfig


@dataclass(frozen=True)
class EmbeddingSpec:
    """A layer and a pooling.

    Attributes:
        layer: its number from 1, or a fraction of the depth; 1.0: the last, after the final norm.
        pooling: "mean": over all tokens, which in the last layer is the paper's embedding;
            "mean_without_first": over all but the first, which in many models is an attention sink:
            its activations are a hundred times those of others, and would hide them. (A single
            token is kept.) "last": the last token (FedDPA).

    >>> EmbeddingSpec(1.0, "mean")
    EmbeddingSpec(layer=1.0, pooling='mean')
    """

    layer: int | float
    pooling: Literal["mean", "mean_without_first", "last"]

    @classmethod
    def from_config(cls, config: ResolvedModelConfig) -> Self:
        """The embedding that section `[model]` asks for."""
        return cls(config.embedding_layer, config.embedding_pooling)


PAPER_EMBEDDING = EmbeddingSpec(1.0, "mean")
LAST_TOKEN = EmbeddingSpec(1.0, "last")  # by which FedDPA compares prompts


def pool(
    hidden: Tensor, mask: Tensor, pooling: Literal["mean", "mean_without_first", "last"]
) -> Tensor:
    """One vector for each row.

    Args:
        hidden: shape (rows, length, d).
        mask: the attention mask of right-padded rows, shape (rows, length).
        pooling: see `EmbeddingSpec`.

    Returns:
        float32, shape (rows, d).
    """
    lengths = mask.sum(1)
    if pooling == "last":
        return hidden[torch.arange(len(hidden)), lengths - 1].float()
    weights = mask.float()
    if pooling == "mean_without_first":
        weights[:, 0] = (lengths == 1).float()
    weights = weights.unsqueeze(-1)
    return (hidden.float() * weights).sum(1) / weights.sum(1)
