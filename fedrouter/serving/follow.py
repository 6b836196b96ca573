"""`fedrouter serve --follow`: each round that a run finishes answers the requests after it."""

import threading
from collections.abc import Callable

from fedrouter.config import ResolvedConfig, load_resolved
from fedrouter.errors import FedRouterError
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.inference.unfinished import model_after_round
from fedrouter.model.base_model import BaseModel
from fedrouter.storage.run_folder import RunFolder

PERIOD = 1.0  # seconds between two looks into the run folder


class Follower:
    """Builds a model from each round that a run finishes.

    A context manager: leaving it ends its thread.

    Args:
        run: the run folder; nothing is written there.
        base: the run's base model, which all rounds share.
        config: the run's configuration.
        say: called with what the operator should know.
    """

    def __init__(
        self, run: RunFolder, base: BaseModel, config: ResolvedConfig, say: Callable[[str], None]
    ) -> None:
        self._run = run
        self._base = base
        self._config = config
        self._say = say
        self._round = -1  # the last one taken
        self._seen: tuple[object, ...] | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def open(cls, run: RunFolder, device: str, say: Callable[[str], None]) -> "Follower":
        """A follower with the run's base model."""
        config = load_resolved(run.path / "config.toml")
        return cls(run, BaseModel.load(config.model, device), config, say)

    def newer(self) -> RoutedModel | None:
        """The model after the newest round, if no earlier call had it.

        A checkpoint that cannot be used is told of and left out. It is tried again when its files
        have changed: a copy from another machine may not be complete yet.
        """
        seen = self._run.checkpoint_stamp()
        if seen == self._seen:
            return None
        self._seen = seen
        checkpoint, warnings = self._run.latest_checkpoint()
        for warning in warnings:
            self._say(warning)
        if checkpoint is None or checkpoint.round <= self._round:
            return None
        model = model_after_round(self._run, self._config, self._base, checkpoint)
        self._round = model.round
        return model

    def first(self) -> RoutedModel:
        """The model after the newest round; waits for the first one.

        Raises:
            FedRouterError: no checkpoint of the run can be used.
        """
        model = self.newer()
        if model is None:
            self._say(f"waiting for the first checkpoint of {self._run.path}")
        while model is None:
            self._ended.wait(PERIOD)
            model = self.newer()
        return model

    def start(self, take: Callable[[RoutedModel], None]) -> None:
        """From now on, in a thread, call `take` with the model of each newer round."""
        self._thread = threading.Thread(
            target=self._work, args=(take,), name="fedrouter-follow", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self, take: Callable[[RoutedModel], None]) -> None:
        while not self._ended.wait(PERIOD):
            try:
                model = self.newer()
            except (FedRouterError, OSError) as error:
                self._say(f"the newest round is not taken: {error}")
                continue
            if model is not None:
                take(model)
                self._say(f"round {model.round} answers from now on")
