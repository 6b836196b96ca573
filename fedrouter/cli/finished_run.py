"""The checks of a run folder that need no model, made before torch is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrouter.config import ResolvedConfig, load_resolved
from fedrouter.storage.run_folder import RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """A finished run's configuration and summary."""

    config: ResolvedConfig
    summary: dict[str, Any]


def read_finished(folder: Path) -> FinishedRun:
    """The configuration and the summary in a run folder.

    Raises:
        RunError: the folder is not that of a finished run.
        ConfigError: its configuration is damaged.
    """
    run = RunFolder.open(folder)
    summary = run.read_summary()
    return FinishedRun(load_resolved(run.path / "config.toml"), summary)
