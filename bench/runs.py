"""Runs of which a benchmark needs the summary alone."""

import tempfile
from pathlib import Path
from typing import Any

from fedrouter.config import Config
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.experiment import Experiment


def finished_run(config: Config, shared_model: SharedModel) -> dict[str, Any]:
    """The summary of a run, whose folder is removed.

    Args:
        config: of the run.
        shared_model: the base model of `config.model`.
    """
    with tempfile.TemporaryDirectory() as folder:
        return Experiment(config, shared_model=shared_model).run(Path(folder) / "run")
