"""Trackers by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from fedrouter.config.sections.tracking import TrackerName
from fedrouter.errors import MissingExtraError
from fedrouter.tracking.base import TrackedRun, Tracker


@dataclass(frozen=True)
class TrackerEntry:
    """A tracker: where its class is, and the package that it needs (its extra has its own name)."""

    module: str
    cls: str
    package: str

    def open(self, run: TrackedRun) -> Tracker:
        """Begin a tracked run, or go on with it."""
        tracker: Tracker = getattr(import_module(self.module), self.cls)(run)
        return tracker


TRACKERS: Mapping[TrackerName, TrackerEntry] = {
    "tensorboard": TrackerEntry("fedrouter.tracking.tensorboard", "TensorBoard", "tensorboard"),
    "mlflow": TrackerEntry("fedrouter.tracking.mlflow", "MLflow", "mlflow"),
    "wandb": TrackerEntry("fedrouter.tracking.wandb", "WeightsAndBiases", "wandb"),
}


def check_installed(names: Sequence[TrackerName]) -> None:
    """Refuse trackers whose packages are missing, before a run begins.

    Raises:
        MissingExtraError: it names the extra.
    """
    for name in names:
        if find_spec(TRACKERS[name].package) is None:
            raise MissingExtraError(f"tracking = [{name!r}]", name)
