"""A finished run as a model: the router picks the adapter that answers each prompt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import numpy as np

from fedrouter.config import ResolvedConfig, load_resolved
from fedrouter.errors import AdapterError, ModelError, RequestError, RunError
from fedrouter.evaluation.metrics import most_frequent
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.inference.conversation import read_conversation, user_text
from fedrouter.inference.decoding import DecodingBatch, GeneratedSequence, new_sequence
from fedrouter.inference.run_reader import read_adapters, read_router
from fedrouter.inference.sampling import Sampling, SamplingOptions
from fedrouter.inference.types import Generation, Route
from fedrouter.model.base_model import BaseModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.model.prompt_format import Conversation
from fedrouter.routing.router import Router, Routes, mixtures, policy
from fedrouter.routing.types import AdapterMixture
from fedrouter.seeding import derive_seed
from fedrouter.storage.run_folder import RunFolder
from fedrouter.types import FloatArray


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

    @overload
    def generate(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int | None = None,
        client: int | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[SamplingOptions],
    ) -> list[Generation]: ...

    @overload
    def generate(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int | None = None,
        client: int | None = None,
        *,
        stream: Literal[True],
        **options: Unpack[SamplingOptions],
    ) -> Iterator[str]: ...

    def generate(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int | None = None,
        client: int | None = None,
        *,
        stream: bool = False,
        **options: Unpack[SamplingOptions],
    ) -> list[Generation] | Iterator[str]:
        """Responses of the adapters that the router chooses, in one batch for all adapters.

        Args:
            prompts: instructions, as in the training data, without a template; a text is one.
            max_new_tokens: the largest number of generated tokens; None: the run's
                `evaluation.max_new_tokens`.
            client: as for `route`.
            stream: give the text of one response in parts, as they are generated.
            options: how tokens are drawn (see `SamplingOptions`); by default greedily.

        Raises:
            RequestError: a prompt is empty, a value is out of its range, or a stream is wanted of
                several prompts.
            RunError: as for `route`.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if stream and len(texts) != 1:
            raise RequestError(f"should be one text for a stream, not {len(texts)}", "prompts")
        sampling = self._sampling(max_new_tokens, **options)
        routed = self._routed(texts, client)
        if stream:
            return self._parts(self._sequence(texts[0], routed[0][1], sampling, 0))
        return self._answers(texts, routed, sampling)

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        max_new_tokens: int | None = None,
        client: int | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[SamplingOptions],
    ) -> Generation: ...

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        max_new_tokens: int | None = None,
        client: int | None = None,
        *,
        stream: Literal[True],
        **options: Unpack[SamplingOptions],
    ) -> Iterator[str]: ...

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        max_new_tokens: int | None = None,
        client: int | None = None,
        *,
        stream: bool = False,
        **options: Unpack[SamplingOptions],
    ) -> Generation | Iterator[str]:
        """The response to a conversation, from the adapter of the task that the user's turns are
        about, as one text with blank lines between them.

        Args:
            messages: the turns, each with "role" ("system", "user" or "assistant") and "content";
                the last one is the user's.
            max_new_tokens: as for `generate`, like the others.
            client: as for `route`.
            stream: give the text in parts, as they are generated.
            options: how tokens are drawn.

        Raises:
            DataError: `messages` are no such conversation, or the base model's chat template
                refuses it.
            RequestError: the user's turns are empty, or a value is out of its range.
        """
        turns = read_conversation(messages)
        sampling = self._sampling(max_new_tokens, **options)
        routed = self._routed([user_text(turns)], client)
        if stream:
            return self._parts(self._sequence(turns, routed[0][1], sampling, 0))
        return self._answers([turns], routed, sampling)[0]

    def _answers(
        self,
        prompts: Sequence[str | Conversation],
        routed: Sequence[tuple[Route, AdapterMixture]],
        sampling: Sampling,
    ) -> list[Generation]:
        """The response to each prompt, of its adapters."""
        if sampling.temperature == 0 and not sampling.stop:
            chosen = [mixture for _, mixture in routed]
            texts = self.multi_adapter.generate(prompts, chosen, sampling.max_tokens)
        else:
            batch = DecodingBatch(self.multi_adapter)
            sequences = [
                self._sequence(prompt, mixture, sampling, i)
                for i, (prompt, (_, mixture)) in enumerate(zip(prompts, routed, strict=True))
            ]
            batch.add(sequences)
            while batch.sequences:
                batch.step()
            texts = [one.text.text for one in sequences]
        return [
            Generation(**vars(route), text=text)
            for (route, _), text in zip(routed, texts, strict=True)
        ]

    def _parts(self, sequence: GeneratedSequence) -> Iterator[str]:
        batch = DecodingBatch(self.multi_adapter)
        batch.add([sequence])
        while batch.sequences:
            if part := sequence.text.take():
                yield part
            batch.step()
        if part := sequence.text.take(last=True):
            yield part

    def _routed(
        self, texts: Sequence[str], client: int | None
    ) -> list[tuple[Route, AdapterMixture]]:
        """As `route_with_mixtures`, for prompts that are to be answered."""
        for number, text in enumerate(texts, start=1):
            if not text.strip():
                raise RequestError(f"{number} of {len(texts)} is empty; give a text", "prompt")
        return self.route_with_mixtures(texts, client)

    def _sampling(
        self,
        max_new_tokens: int | None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Sampling:
        """The defaults are those that `SamplingOptions` tells."""
        limit = max_new_tokens or self.config.evaluation.max_new_tokens
        texts = (stop,) if isinstance(stop, str) else tuple(stop)
        own = self.config.seed if seed is None else seed
        return Sampling(limit, temperature=temperature, top_p=top_p, seed=own, stop=texts)

    def _sequence(
        self, prompt: str | Conversation, mixture: AdapterMixture, sampling: Sampling, index: int
    ) -> GeneratedSequence:
        assert sampling.seed is not None
        draws = derive_seed(sampling.seed, "generate", index)
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
