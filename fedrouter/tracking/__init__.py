"""Trackers: the metrics of a run in TensorBoard, MLflow or Weights & Biases, on this machine."""

from fedrouter.tracking.base import TrackedRun, Tracker
from fedrouter.tracking.registry import check_installed
from fedrouter.tracking.trackers import Trackers

__all__ = ["TrackedRun", "Tracker", "Trackers", "check_installed"]
