"""Generating and scoring responses to test rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fedrouter.data.rows import Row
from fedrouter.evaluation.metrics import exact_match, rouge
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.routing.types import AdapterMixture


@dataclass(frozen=True, slots=True)
class EvalItem:
    """A test row and the mixture of named adapters that answers it.

    The empty mixture is the base model.
    """

    row: Row
    mixture: AdapterMixture


@dataclass(frozen=True, slots=True)
class EvalResult:
    """A generated response and its scores: rouge1, rouge2, rougeL, exact_match and loss."""

    text: str
    scores: Mapping[str, float]


def evaluate_items(
    multi_adapter: MultiAdapterModel,
    items: Iterable[EvalItem],
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[EvalItem, EvalResult]:
    """Generate and score a response for each distinct item once.

    Args:
        multi_adapter: the adapters that the items name.
        items: may contain duplicates.
        max_new_tokens: the largest number of generated tokens.
        progress: called with the number of items finished since its last call.

    Raises:
        AdapterError: an item names an unknown adapter.
    """
    distinct = list(dict.fromkeys(items))
    rows, mixtures = [item.row for item in distinct], [item.mixture for item in distinct]
    # A resumed run, or a client in a process of its own, has other items to evaluate at a time. (On
    # a GPU sums are not repeatable in any case.)
    alone = multi_adapter.base.device.type == "cpu"
    losses = multi_adapter.losses(rows, mixtures, alone=alone)
    texts = multi_adapter.generate(
        [row.messages or row.instruction for row in rows], mixtures, max_new_tokens, progress
    )
    return {
        item: EvalResult(text, {**score(text, item.row.response), "loss": loss})
        for item, text, loss in zip(distinct, texts, losses, strict=True)
    }


def score(text: str, response: str) -> dict[str, float]:
    """ROUGE F-measures and exact match of a generated text, as fractions of 1."""
    return {**rouge(text, response), "exact_match": exact_match(text, response)}
