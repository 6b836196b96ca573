"""A finished run as a model: the router picks the adapter that answers each prompt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedrouter.config import ResolvedConfig, load_resolved
from fedrouter.errors import AdapterError, ModelError, RequestError, RunError
from fedrouter.evaluation.metrics import most_frequent
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.inference.conversation import read_conversation, user_text
from fedrouter.inference.decoding import DecodingBatch, GeneratedSequence, new_sequence
from fedrouter.inference.run_reader import read_adapters, read_router
from fedrouter.inference.sampling import Sampling
from fedrouter.model.base_model import BaseModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.model.prompt_format import Conversation
from fedrouter.routing.router import Router, Routes, mixtures, policy
from fedrouter.routing.types import AdapterMixture
from fedrouter.seeding import derive_seed
from fedrouter.storage.run_folder import RunFolder
from fedrouter.types import FloatArray


@dataclass(frozen=True)
class Route:
    """The routing decision for a prompt.

    Attributes:
        prompt: the prompt.
        task: the id of the nearest global task.
        confidence: the posterior probability of this task among those to choose from, in [0, 1].
        known: whether the prompt lies within `router.threshold` of a task; if not,
            `router.fallback` decides what answers it.
        distances: the tasks with the prompt's distance to each, in the router's space, the nearest
            first; empty if nothing is routed.

    >>> from fedrouter import Route
    >>> route = Route("Which city is this?", "task-02", confidence=0.97, known=True)
    >>> route.task
    'task-02'
    """

    prompt: str
    task: str
    confidence: float
    known: bool
    distances: tuple[tuple[str, float], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Generation(Route):
    """A routing decision and the generated response.

    Attributes:
        text: the response, without special tokens.

    >>> from fedrouter import Generation
    >>> Generation("2 + 2?", "task-00", confidence=0.9, known=True, text="4").text
    '4'
    """

    text: str = ""


class RoutedModel:
    """A base model with the adapters and the router of a run. Make one with `load`.

    Attributes:
        config: the run's configuration.
        base: the base model.
        router: prompts -> global tasks; None if the run's method has a single adapter.
        multi_adapter: the tasks' adapters on the base model.
        tasks: the discovered tasks, as in `summary.json`.
        history: the events of tasks over the run, as in `summary.json`.
        round: the round after which adapters and router were as they are here.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from fedrouter import RoutedModel, load_config, run
    >>> config = load_config(None, [
    ...     "mode=paper", "clustering.n_local=1", "clustering.n_global=2", "federation.clients=2",
    ...     "federation.rounds=1", "training.steps=1", "data.builtin_train=8",
    ...     "data.builtin_test=2", "evaluation.enabled=false"])
    >>> with TemporaryDirectory() as folder:
    ...     _ = run(config, Path(folder) / "run")
    ...     model = RoutedModel.load(Path(folder) / "run")
    >>> [answer] = model.generate(["Which day is 2024-02-29?"], max_new_tokens=4)
    >>> answer.task in {task["id"] for task in model.tasks}
    True
    """

    def __init__(
        self,
        config: ResolvedConfig,
        base: BaseModel,
        router: Router | None,
        multi_adapter: MultiAdapterModel,
        *,
        tasks: Sequence[Mapping[str, Any]],
        history: Sequence[Mapping[str, Any]],
        round: int,
    ) -> None:
        self.config = config
        self.base = base
        self.router = router
        self.multi_adapter = multi_adapter
        self.tasks = tasks
        self.history = history
        self.round = round

    def detach(self) -> None:
        """Take the adapters off the base model, which others may use; this model is done."""
        self.multi_adapter.detach()

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> "RoutedModel":
        """Load a finished run.

        Args:
            folder: the run folder.
            device: a torch device, or "auto": a GPU if there is one, else the CPU.

        Raises:
            RunError: the folder is not a finished run, or the run's method has personal adapters
                that stay with the clients.
            ModelError: the base model differs from the one that the run was trained on.
            AdapterError: a task's adapter is damaged.
        """
        run = RunFolder.open(Path(folder))
        summary = run.read_summary()
        config = load_resolved(run.path / "config.toml")
        router = read_router(run, config)
        base = BaseModel.load(config.model, device)
        fingerprint = router.base_fingerprint if router else summary["base_fingerprint"]
        if fingerprint != base.fingerprint:
            raise ModelError(
                f"{run.path} was trained on another base model than {config.model.name!r} now is; "
                "put back the one it had"
            )
        multi_adapter = MultiAdapterModel(base, *read_adapters(run, router))
        return cls(
            config,
            base,
            router,
            multi_adapter,
            tasks=summary["tasks"],
            history=summary["history"],
            round=summary["rounds"],
        )

    def route(self, prompts: Sequence[str], client: int | None = None) -> list[Route]:
        """The routing decision for each prompt.

        Args:
            prompts: instructions, as in the training data, without a template.
            client: route among the tasks of this client only (scope `local`); None: among all.

        Raises:
            RunError: the client has no task, or `router.scope` is "local" and no client is given.
        """
        return [route for route, _ in self.route_with_mixtures(prompts, client)]

    def route_with_mixtures(
        self, prompts: Sequence[str], client: int | None = None
    ) -> list[tuple[Route, AdapterMixture]]:
        """As `route`, each with the adapters that answer the prompt and their weights."""
        if not prompts:
            return []
        if self.router is None:
            [only] = self.multi_adapter.names
            return [(Route(prompt, only, 1.0, True), ((only, 1.0),)) for prompt in prompts]
        allowed, rule = self._allowed(client), policy(self.config.router)
        routes = self.router.route(self.embed(prompts), allowed)
        answers = mixtures(self.router.geometry, routes, rule, allowed)
        return [
            (self._decision(prompts[i], routes, i, routes.tasks[i]), mixture)
            for i, mixture in enumerate(answers)
        ]

    def route_to(self, prompt: str, task: str) -> tuple[Route, AdapterMixture]:
        """As `route_with_mixtures` for one prompt, with a task that the caller chose.

        The confidence is the one that the router has in this task.

        Raises:
            AdapterError: there is no such task.
        """
        if task not in self.multi_adapter.names:
            known = ", ".join(self.multi_adapter.names)
            raise AdapterError(f"there is no task {task!r}; there are: {known}")
        if self.router is None:
            return Route(prompt, task, 1.0, True), ((task, 1.0),)
        routes = self.router.route(self.embed([prompt]))
        return self._decision(prompt, routes, 0, task), ((task, 1.0),)

    def embed(
        self, prompts: Sequence[str], progress: Callable[[int], None] = lambda _: None
    ) -> FloatArray:
        """The embeddings that the router takes, shape (n, d)."""
        spec = EmbeddingSpec.from_config(self.config.model)
        return self.base.embed(prompts, spec, progress, remember=False)

    def _decision(self, prompt: str, routes: Routes, i: int, task: str) -> Route:
        """What the router says of prompt i and a task."""
        assert self.router is not None
        tasks, distances = self.router.geometry.tasks, routes.distances[i]
        return Route(
            prompt,
            task,
            confidence=float(routes.probabilities[i, tasks.index(task)]),
            known=bool(routes.ood_score[i] <= self.config.router.threshold),
            distances=tuple(
                (tasks[t], float(distances[t])) for t in np.argsort(distances, kind="stable")
            ),
        )

    def generate(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int | None = None,
        client: int | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> list[Generation]:
        """Responses of the adapters that the router chooses, in one batch for all adapters.

        Args:
            prompts: instructions, as in the training data, without a template; a text is one.
            max_new_tokens: the largest number of generated tokens; None: the run's
                `evaluation.max_new_tokens`.
            client: as for `route`.
            temperature: 0: the most probable token each time (greedy); up to 2: more random.
            top_p: draw from the most probable tokens that have this probability together.
            seed: the same seed gives the same responses; None: the run's.
            stop: texts that end a response.

        Raises:
            RequestError: a prompt is empty, or a value is out of its range.
            RunError: as for `route`.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        sampling = self._sampling(max_new_tokens, temperature, top_p, stop)
        routed = self._routed(texts, client)
        if temperature == 0 and not stop:
            chosen = [mixture for _, mixture in routed]
            answers = self.multi_adapter.generate(texts, chosen, sampling.max_tokens)
        else:
            batch = DecodingBatch(self.multi_adapter)
            sequences = [
                self._sequence(text, mixture, sampling, seed, i)
                for i, (text, (_, mixture)) in enumerate(zip(texts, routed, strict=True))
            ]
            batch.add(sequences)
            while batch.sequences:
                batch.step()
            answers = [one.text.text for one in sequences]
        return [
            Generation(**vars(route), text=text)
            for (route, _), text in zip(routed, answers, strict=True)
        ]

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        max_new_tokens: int | None = None,
        client: int | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """The response to one prompt or conversation, in parts as they are generated.

        Args:
            prompt: an instruction, or messages as for `chat`.
            max_new_tokens: as for `generate`, like the others.
            client: as for `route`.
            temperature: 0: greedy.
            top_p: draw from the most probable tokens that have this probability together.
            seed: the same seed gives the same response; None: the run's.
            stop: texts that end the response.

        Raises:
            RequestError: the prompt is empty, or a value is out of its range.
            DataError: the messages are no conversation.
            RunError: as for `route`.
        """
        turns = prompt if isinstance(prompt, str) else read_conversation(prompt)
        sampling = self._sampling(max_new_tokens, temperature, top_p, stop)
        [(_, mixture)] = self._routed([user_text(turns)], client)
        sequence = self._sequence(turns, mixture, sampling, seed, 0)
        return self._parts(sequence)

    def _parts(self, sequence: GeneratedSequence) -> Iterator[str]:
        batch = DecodingBatch(self.multi_adapter)
        batch.add([sequence])
        while batch.sequences:
            if part := sequence.text.take():
                yield part
            batch.step()
        if part := sequence.text.take(last=True):
            yield part

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        max_new_tokens: int | None = None,
        client: int | None = None,
    ) -> Generation:
        """The greedy response to a conversation, from the adapter of the task that the user's turns
        are about, as one text with blank lines between them.

        Args:
            messages: the turns, each with "role" ("system", "user" or "assistant") and "content";
                the last one is the user's.
            max_new_tokens: None: the run's `evaluation.max_new_tokens`.
            client: as for `route`.

        Raises:
            DataError: `messages` are no such conversation, or the base model's chat template
                refuses it.
        """
        conversation = read_conversation(messages)
        limit = max_new_tokens or self.config.evaluation.max_new_tokens
        [(route, mixture)] = self._routed([user_text(conversation)], client)
        [text] = self.multi_adapter.generate([conversation], [mixture], limit)
        return Generation(**vars(route), text=text)

    def _routed(
        self, texts: Sequence[str], client: int | None
    ) -> list[tuple[Route, AdapterMixture]]:
        """As `route_with_mixtures`, for prompts that are to be answered."""
        for number, text in enumerate(texts, start=1):
            if not text.strip():
                raise RequestError(f"{number} of {len(texts)} is empty; give a text", "prompt")
        return self.route_with_mixtures(texts, client)

    def _sampling(
        self, max_new_tokens: int | None, temperature: float, top_p: float, stop: Sequence[str]
    ) -> Sampling:
        limit = max_new_tokens or self.config.evaluation.max_new_tokens
        texts = (stop,) if isinstance(stop, str) else tuple(stop)
        return Sampling(limit, temperature=temperature, top_p=top_p, stop=texts)

    def _sequence(
        self,
        prompt: str | Conversation,
        mixture: AdapterMixture,
        sampling: Sampling,
        seed: int | None,
        index: int,
    ) -> GeneratedSequence:
        draws = derive_seed(self.config.seed if seed is None else seed, "generate", index)
        ids = self.base.prompts.prompt_ids(prompt)
        return new_sequence(self.base, ids, mixture, sampling, draws)

    @property
    def majority(self) -> dict[str, str]:
        """Global task -> the most frequent true task of its training samples.

        It is empty if the rows do not name their task.
        """
        return {
            task["id"]: most_frequent(counts)
            for task in self.tasks
            if (counts := task["true_tasks"])
        }

    def _allowed(self, client: int | None) -> list[str] | None:
        """The tasks that prompts of a client may be routed to; None: all."""
        if client is None:
            if self.config.router.scope == "local":
                raise RunError(
                    "this run has router.scope = 'local': name the client whose prompts these are "
                    "(--client N; in Python, client=N)"
                )
            return None
        own = [task["id"] for task in self.tasks if client in task["clients"]]
        if not own:
            known = sorted({id for task in self.tasks for id in task["clients"]})
            raise RunError(f"there is no client {client}; this run has {known[0]} to {known[-1]}")
        return own
