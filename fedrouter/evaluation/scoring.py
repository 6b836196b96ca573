"""Questions to adapters and the scores of their answers."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fedrouter.data.rows import Row
from fedrouter.evaluation.metrics import exact_match, rouge
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.routing.types import AdapterMixture


@dataclass(frozen=True, slots=True)
class EvalItem:
    """A test row put to a blend of adapters, by name; the empty blend is the base model."""

    row: Row
    mixture: AdapterMixture


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What was generated, and its scores: rouge1, rouge2, rougeL, exact_match, loss."""

    text: str
    scores: Mapping[str, float]


def examine(
    multi_adapter: MultiAdapterModel,
    questions: Iterable[EvalItem],
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[EvalItem, EvalResult]:
    """Answer and score each distinct question once.

    Args:
        responder: the adapters.
        questions: may repeat.
        max_new_tokens: length of a response at most.
        progress: called with the number of questions answered since its last call.
    """
    asked = list(dict.fromkeys(questions))
    rows, mixtures = [q.row for q in asked], [q.mixture for q in asked]
    losses = multi_adapter.losses(rows, mixtures)
    texts = multi_adapter.generate(
        [row.instruction for row in rows], mixtures, max_new_tokens, progress
    )
    return {
        question: EvalResult(text, {**score(text, question.row.response), "loss": loss})
        for question, text, loss in zip(asked, texts, losses, strict=True)
    }


def score(text: str, response: str) -> dict[str, float]:
    """ROUGE F-measures and exact match of a generated text, as fractions of 1."""
    return {**rouge(text, response), "exact_match": exact_match(text, response)}
