"""Questions to adapters and the scores of their answers.

Many clients ask the same question of the same adapter; each such pair is answered once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedrouter.metrics import exact_match, mean, rouge
from fedrouter.responder import Responder
from fedrouter.rows import Row


@dataclass(frozen=True, slots=True)
class Question:
    """A test row put to the adapter of a task, by its id; None is the base model."""

    row: Row
    task: str | None


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
    rows, tasks = [q.row for q in asked], [q.task for q in asked]
    losses = responder.losses(rows, tasks)
    texts = responder.generate([row.instruction for row in rows], tasks, max_new_tokens, progress)
    return {
        question: Answer(text, {**score(text, question.row.response), "loss": loss})
        for question, text, loss in zip(asked, texts, losses, strict=True)
    }


def score(text: str, response: str) -> dict[str, float]:
    """ROUGE F-measures and exact match of a generated text, as fractions of 1."""
    return {**rouge(text, response), "exact_match": exact_match(text, response)}


def mean_scores(
    answers: Mapping[Question, Answer], questions: Sequence[Question]
) -> dict[str, float]:
    """Mean scores of the answers to some questions; empty where there are none."""
    return mean([answers[question].scores for question in questions])


def scores_by_label(
    answers: Mapping[Question, Answer],
    labels: Sequence[str],
    contestants: Mapping[str, Sequence[Question]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores of several contestants on the rows of each label.

    Args:
        answers: answers to all of the contestants' questions.
        labels: the label of each row.
        contestants: name -> that contestant's question on each row.

    Returns:
        label -> contestant's name -> scores; labels in the order in which they first occur.
    """
    return {
        label: {
            name: mean_scores(
                answers, [q for own, q in zip(labels, asked, strict=True) if own == label]
            )
            for name, asked in contestants.items()
        }
        for label in dict.fromkeys(labels)
    }
