"""Answers to test rows in a report: by task, the best and the worst, with their routing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from html import escape
from operator import itemgetter
from typing import Any

from fedrouter.evaluation.metrics import most_frequent
from fedrouter.report.page import Section, disclosure
from fedrouter.server.summary import client_list
from fedrouter.storage.predictions import CollectedPrediction, read_predictions
from fedrouter.storage.run_folder import RunFolder

SHOWN = 2  # the best answers of a task, and its worst ones
LONGEST = 800  # characters of a text

Predictions = Sequence[CollectedPrediction]
Ranked = Sequence[tuple[tuple[float, float, float], int, CollectedPrediction]]


def examples_section(run: RunFolder, tasks: Sequence[Mapping[str, Any]]) -> Section:
    """The best and the worst answers of each task; empty if the run has no predictions.

    Args:
        run: the run folder.
        tasks: the global tasks of its summary.
    """
    majority = {one["id"]: most_frequent(one["true_tasks"]) for one in tasks if one["true_tasks"]}
    blocks = [
        disclosure(_heading(name, of_task), _examples(of_task, majority))
        for name, of_task in by_task(read_predictions(run.path)).items()
    ]
    text = (
        f"For each task the {SHOWN} answers with the highest and the {SHOWN} with the lowest "
        "ROUGE-1 (then exact match, then loss). All answers are in predictions.jsonl."
    )
    return Section("Examples", ["".join(blocks)] if blocks else [], text)


@dataclass
class TaskExamples:
    """The answers of a task: how many, the sum of their ROUGE-1, the best and the worst SHOWN."""

    count: int = 0
    total: float = 0.0
    _best: Ranked = ()
    _worst: Ranked = ()

    def add(self, one: CollectedPrediction) -> None:
        """Count an answer in; it is stored if it is among the best or the worst."""
        entry = (_rank(one), -self.count, one)  # the index decides between equals
        self.count += 1
        self.total += one["scores"]["rouge1"]
        self._best = nlargest(SHOWN, [*self._best, entry], key=itemgetter(0, 1))
        self._worst = nsmallest(SHOWN, [*self._worst, entry], key=itemgetter(0, 1))

    @property
    def best(self) -> Predictions:
        """At most SHOWN, and no more than half of all answers (rounded up)."""
        return [one for *_, one in self._best[: (self.count + 1) // 2]]

    @property
    def worst(self) -> Predictions:
        """At most SHOWN of those that are not among the best."""
        best = [id(one) for one in self.best]
        return [one for *_, one in self._worst if id(one) not in best]


def by_task(predictions: Iterable[CollectedPrediction]) -> dict[str, TaskExamples]:
    """The predictions by true task; by global task, or all together, where rows name none."""
    groups: defaultdict[str, TaskExamples] = defaultdict(TaskExamples)
    for one in predictions:
        groups[one["true_task"] or one["task"] or "all"].add(one)
    return dict(sorted(groups.items()))


def _rank(one: CollectedPrediction) -> tuple[float, float, float]:
    scores = one["scores"]
    return scores["rouge1"], scores["exact_match"], -scores["loss"]


def _heading(name: str, of_task: TaskExamples) -> str:
    return f"{name}: {of_task.count} answers, ROUGE-1 {of_task.total / of_task.count:.3f}"


def _examples(of_task: TaskExamples, majority: Mapping[str, str]) -> str:
    shown = [("Best", one) for one in of_task.best] + [("Worst", one) for one in of_task.worst]
    return "".join(_example(rank, one, majority) for rank, one in shown)


def _example(rank: str, one: CollectedPrediction, majority: Mapping[str, str]) -> str:
    turns = [(role, text) for role, text in one["context"]]
    texts = [*(turns or [("prompt", one["prompt"])])]
    texts += [("expected", one["expected"]), ("answer", one["answer"])]
    parts = [(label, f"<pre>{escape(_cut(text))}</pre>") for label, text in texts]
    parts += [(label, escape(text)) for label, text in _routing(one, majority).items()]
    terms = "".join(f"<dt>{escape(label)}</dt><dd>{text}</dd>" for label, text in parts)
    return f'<div class="example"><h3>{rank}</h3><dl>{terms}</dl></div>'


def _routing(one: CollectedPrediction, majority: Mapping[str, str]) -> dict[str, str]:
    """Where the prompt was routed, what answered it, its scores, and whose answer it is."""
    shown = {}
    if one["task"] is not None:
        mostly = majority.get(one["task"])
        wrong = mostly is not None and one["true_task"] not in (None, mostly)
        parts = [one["task"], *([f"mostly {mostly}"] if mostly else [])]
        if one["confidence"] is not None:
            parts.append(f"confidence {one['confidence']:.2f}")
        shown["routed to"] = ", ".join(parts) + (": not its task" if wrong else "")
    if one["adapters"] is not None and list(one["adapters"]) != [one["task"]]:
        mixed = ", ".join(f"{name} {weight:.2f}" for name, weight in one["adapters"].items())
        shown["answered by"] = mixed or "the base model (out of distribution)"
    if one["task"] is None:
        shown["clients"] = client_list(one["clients"])
    scores = one["scores"]
    shown["scores"] = (
        f"ROUGE-1 {scores['rouge1']:.3f}, exact match {scores['exact_match']:.0f}, "
        f"loss {scores['loss']:.3f}"
    )
    return shown


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"
