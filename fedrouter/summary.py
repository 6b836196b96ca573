"""What a run found and how good it is: the tasks, the scores and the routing of `summary.json`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from fedrouter.client import Client
from fedrouter.config import Config
from fedrouter.evaluation import Answer, Question, examine, mean_scores, scores_by_label
from fedrouter.federation import sample_test
from fedrouter.lora import LoraSpec
from fedrouter.messages import FloatArray
from fedrouter.metrics import ari, majority, mean, nmi, purity, routing_accuracy
from fedrouter.model import BaseModel
from fedrouter.progress import Progress
from fedrouter.responder import Responder
from fedrouter.rows import Row
from fedrouter.strategies import ServerState


class Evaluator:
    """Measures states of one experiment on its test rows.

    Args:
        config: the resolved configuration.
        base: the base model.
        spec: the adapters' shape.
        clients: the clients, by id.
        test: all test rows; `evaluation.samples` of each task are used.
        progress: hears of embedding and of every answer.
    """

    def __init__(
        self,
        config: Config,
        base: BaseModel,
        spec: LoraSpec,
        *,
        clients: Mapping[int, Client],
        test: Sequence[Row],
        progress: Progress,
    ) -> None:
        self._config = config
        self._base = base
        self._spec = spec
        self._clients = clients
        self._rows = sample_test(test, config.evaluation.samples, config.seed)
        self._progress = progress

    @cached_property
    def _points(self) -> FloatArray:
        """Embeddings of the test rows, in their order."""
        self._progress.phase("embed the test prompts", len(self._rows))
        return self._base.embed([row.instruction for row in self._rows], self._progress.advance)

    def metrics(self, state: ServerState) -> dict[str, Any]:
        """Scores of the routed adapters and of the base model.

        `local` is each client's own test rows, routed among its own tasks, mean over clients;
        `global` and `base` are all test rows, routed among all tasks and put to the base model;
        `by_task` splits these two by true task (None where rows name none).
        """
        if not self._config.evaluation.enabled:
            return dict.fromkeys(("local", "global", "base", "by_task"))
        routed = state.router.route(self._points).tasks
        everywhere = [Question(row, task) for row, task in zip(self._rows, routed, strict=True)]
        untuned = [Question(row, None) for row in self._rows]
        own = [self._own_questions(state, client) for client in self._clients.values()]
        answers = self._answers(state, [everywhere, untuned, *own])
        by_client = [scores for asked in own if (scores := mean_scores(answers, asked))]
        names = [row.task for row in self._rows if row.task is not None]
        contestants = {"global": everywhere, "base": untuned}
        named = len(names) == len(self._rows)
        return {
            "local": mean(by_client) or None,
            "global": mean_scores(answers, everywhere),
            "base": mean_scores(answers, untuned),
            "by_task": scores_by_label(answers, names, contestants) if named else None,
        }

    def _own_questions(self, state: ServerState, client: Client) -> list[Question]:
        """A client's own test rows, each with the task that its local router chooses."""
        own = set(client.test)
        chosen = [i for i, row in enumerate(self._rows) if row in own]
        if not chosen:
            return []
        routed = state.router.route(self._points[chosen], allowed=state.own_tasks(client.id))
        return [Question(self._rows[i], t) for i, t in zip(chosen, routed.tasks, strict=True)]

    def _answers(
        self, state: ServerState, asked: Sequence[Sequence[Question]]
    ) -> dict[Question, Answer]:
        """Answers of a state's adapters to several lists of questions, each question once."""
        questions = dict.fromkeys(question for group in asked for question in group)
        self._progress.phase("evaluate", len(questions))
        with Responder(self._base, self._spec, state.adapters) as responder:
            limit = self._config.evaluation.max_new_tokens
            return examine(responder, questions, limit, self._progress.advance)

    def routing(self, state: ServerState) -> dict[str, float | None]:
        """How well found tasks match true ones; all None where rows name no task.

        `accuracy` is over the test rows, each global task standing for the majority true task of
        its training rows; `ari`, `nmi` and `train_purity` are over the training rows.
        """
        pairs = self._training_tasks(state)
        found = [task for task, _ in pairs]
        true = [row.task for _, row in pairs if row.task is not None]
        wanted = [row.task for row in self._rows if row.task is not None]
        if len(true) < len(found) or len(wanted) < len(self._rows):
            return dict.fromkeys(("accuracy", "ari", "nmi", "train_purity"))
        routed = state.router.route(self._points).tasks
        return {
            "accuracy": routing_accuracy(routed, wanted, majority(found, true)),
            "ari": ari(found, true),
            "nmi": nmi(found, true),
            "train_purity": purity(found, true),
        }

    def tasks(self, state: ServerState) -> list[dict[str, Any]]:
        """One entry for each global task: its clients, its number of training samples, and the
        number of each true task among them (empty where rows name none)."""
        rows: dict[str, list[Row]] = {task: [] for task in state.router.tasks}
        for task, row in self._training_tasks(state):
            rows[task].append(row)
        return [
            {
                "id": task,
                "clients": [id for id in self._clients if task in state.assignment[id]],
                "samples": len(own),
                "true_tasks": dict(Counter(row.task for row in own if row.task is not None)),
            }
            for task, own in rows.items()
        ]

    def _training_tasks(self, state: ServerState) -> list[tuple[str, Row]]:
        """All clients' training rows, each with the global task it was found to belong to."""
        return [
            (state.assignment[client.id][label], row)
            for client in self._clients.values()
            for label, row in zip(client.labels(), client.train, strict=True)
        ]
