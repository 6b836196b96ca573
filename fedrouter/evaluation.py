"""Questions to adapters and the scores of their answers."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedrouter.messages import LabelScores
from fedrouter.metrics import exact_match, mean, rouge
from fedrouter.responder import Responder
from fedrouter.routing import Blend
from fedrouter.rows import Row


@dataclass(frozen=True, slots=True)
class Question:
    """A test row put to a blend of adapters, by name; the empty blend is the base model."""

    row: Row
    blend: Blend


@dataclass(frozen=True, slots=True)
class Answer:
    """What was generated, and its scores: rouge1, rouge2, rougeL, exact_match, loss."""

    text: str
    scores: Mapping[str, float]


def examine(
    responder: Responder,
    questions: Iterable[Question],
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[Question, Answer]:
    """Answer and score each distinct question once.

    Args:
        responder: the adapters.
        questions: may repeat.
        max_new_tokens: length of a response at most.
        progress: called with the number of questions answered since its last call.
    """
    asked = list(dict.fromkeys(questions))
    rows, blends = [q.row for q in asked], [q.blend for q in asked]
    losses = responder.losses(rows, blends)
    texts = responder.generate([row.instruction for row in rows], blends, max_new_tokens, progress)
    return {
        question: Answer(text, {**score(text, question.row.response), "loss": loss})
        for question, text, loss in zip(asked, texts, losses, strict=True)
    }


def score(text: str, response: str) -> dict[str, float]:
    """ROUGE F-measures and exact match of a generated text, as fractions of 1."""
    return {**rouge(text, response), "exact_match": exact_match(text, response)}


def scores_by_label(labels: Sequence[str], answers: Sequence[Answer]) -> dict[str, LabelScores]:
    """Mean scores of the answers to the rows of each label, in the order of first appearance."""
    groups: defaultdict[str, list[Mapping[str, float]]] = defaultdict(list)
    for label, answer in zip(labels, answers, strict=True):
        groups[label].append(answer.scores)
    return {label: LabelScores(len(scores), mean(scores)) for label, scores in groups.items()}


def pooled(groups: Iterable[LabelScores]) -> dict[str, float]:
    """Mean scores over all rows of several groups; empty where there are none."""
    counted = [group for group in groups if group.rows]
    rows = sum(group.rows for group in counted)
    names = counted[0].scores if counted else ()
    return {name: sum(g.rows * g.scores[name] for g in counted) / rows for name in names}
