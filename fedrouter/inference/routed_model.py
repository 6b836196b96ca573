"""Use a finished run: every prompt is answered by the adapter of its task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrouter.adapters.lora import read_adapter
from fedrouter.config import Config, load_config
from fedrouter.errors import AdapterError, ModelError, RunError
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.model.base_model import BaseModel
from fedrouter.routing.router import Router, mixtures, policy
from fedrouter.routing.types import AdapterMixture
from fedrouter.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Route:
    """Where a prompt goes.

    Attributes:
        prompt: the prompt.
        task: the id of the nearest global task.
        confidence: the probability that it is this task's, of those to choose from, in [0, 1].
        known: whether it is near enough to be any task's; if not, `router.fallback` answers it.
    """

    prompt: str
    task: str
    confidence: float
    known: bool


@dataclass(frozen=True)
class Generation(Route):
    """A routed prompt and its response."""

    text: str


class RoutedModel:
    """A base model with the adapters and the router of a run.

    Attributes:
        config: the run's configuration.
        base: the base model, resident.
        router: prompts -> global tasks; None where the run's method has one adapter for everything.
        responder: the tasks' adapters, loaded on the base model.
        found: the tasks that the run found, as in `summary.json`.
        history: what became of tasks, as in `summary.json`.
    """

    def __init__(
        self,
        config: Config,
        base: BaseModel,
        router: Router | None,
        multi_adapter: MultiAdapterModel,
        *,
        found: Sequence[Mapping[str, Any]],
        history: Sequence[Mapping[str, Any]],
    ) -> None:
        self.config = config
        self.base = base
        self.router = router
        self.multi_adapter = multi_adapter
        self.found = found
        self.history = history

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> "RoutedModel":
        """Load a finished run.

        Args:
            folder: the run folder.
            device: "auto" (a GPU where there is one) or a torch device.

        Raises:
            RunError: the folder is not a finished run, or one of a method whose clients choose
                their adapters themselves.
            ModelError: the base model is not the one that the run was trained on.
            AdapterError: a task's adapter is damaged.
        """
        run = RunFolder.open(Path(folder))
        if not run.finished:
            raise RunError(
                f"{run.path} is not finished; finish it with: fedrouter resume {run.path}"
            )
        config, summary = load_config(run.path / "config.toml"), run.read_summary()
        names = [path.name for path in sorted(run.path.glob("tasks/*/"))]
        routed = (run.path / "router.json").exists()
        if not routed and len(names) != 1:
            raise RunError(
                f"{run.path}: with strategy {config.strategy!r} clients choose their adapters "
                "themselves, so that there is nothing to route to; use a run of 'fedrouter'"
            )
        base = BaseModel.load(config.model, device)
        router = Router.load(run.path) if routed else None
        fingerprint = router.base_fingerprint if router else summary["base_fingerprint"]
        if fingerprint != base.fingerprint:
            raise ModelError(
                f"{run.path} was trained on another base model than {config.model.name!r} now is; "
                "put back the one it had"
            )
        read = {
            name: read_adapter(run.path / "tasks" / name)
            for name in (router.geometry.tasks if router else names)
        }
        specs = {spec for _, spec in read.values()}
        if len(specs) > 1:
            raise AdapterError(
                f"the adapters in {run.path / 'tasks'} differ in rank, alpha or targets; "
                "put back the ones that the run wrote"
            )
        adapters = {task: weights for task, (weights, _) in read.items()}
        multi_adapter = MultiAdapterModel(base, specs.pop(), adapters)
        found, history = summary["tasks"], summary["history"]
        return cls(config, base, router, multi_adapter, found=found, history=history)

    def route(self, prompts: Sequence[str], client: int | None = None) -> list[Route]:
        """The task of each prompt.

        Args:
            prompts: instructions, as in the training data, without a template.
            client: choose among this client's own tasks (scope `local`); None: among all.

        Raises:
            RunError: the client holds no task, or `router.scope` is "local" and no client is given.
        """
        return [route for route, _ in self.routed(prompts, client)]

    def routed(
        self, prompts: Sequence[str], client: int | None = None
    ) -> list[tuple[Route, AdapterMixture]]:
        """As `route`, each with the adapters that answer and their weights."""
        if not prompts:
            return []
        if self.router is None:
            [only] = self.multi_adapter.names
            return [(Route(prompt, only, 1.0, True), ((only, 1.0),)) for prompt in prompts]
        allowed, rule = self._allowed(client), policy(self.config.router)
        routes = self.router.route(self.base.embed(prompts), allowed)
        answers = mixtures(self.router.geometry, routes, rule, allowed)
        known = routes.ood_score <= rule.threshold
        return [
            (
                Route(prompts[i], routes.tasks[i], float(routes.confidence[i]), bool(known[i])),
                mixture,
            )
            for i, mixture in enumerate(answers)
        ]

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | None = None,
        client: int | None = None,
    ) -> list[Generation]:
        """Greedy responses, each from its task's adapter or as the section `router` says,
        in batches that mix adapters.

        Args:
            prompts, client: as for `route`.
            max_new_tokens: None: the run's `evaluation.max_new_tokens`.
        """
        limit = max_new_tokens or self.config.evaluation.max_new_tokens
        routed = self.routed(prompts, client)
        texts = self.multi_adapter.generate(prompts, [mixture for _, mixture in routed], limit)
        return [
            Generation(**vars(route), text=text)
            for (route, _), text in zip(routed, texts, strict=True)
        ]

    @property
    def majority(self) -> dict[str, str]:
        """The true task that most training samples of each global task name; empty where rows
        name none."""
        return {
            task["id"]: min(counts, key=lambda name: (-counts[name], name))
            for task in self.found
            if (counts := task["true_tasks"])
        }

    def _allowed(self, client: int | None) -> list[str] | None:
        """The tasks that prompts of a client may go to; None: all."""
        if client is None:
            if self.config.router.scope == "local":
                raise RunError(
                    "this run has router.scope = 'local': say whose prompts these are "
                    "(--client N; in Python, client=N)"
                )
            return None
        own = [task["id"] for task in self.found if client in task["clients"]]
        if not own:
            known = sorted({id for task in self.found for id in task["clients"]})
            raise RunError(f"there is no client {client}; this run has {known[0]} to {known[-1]}")
        return own
