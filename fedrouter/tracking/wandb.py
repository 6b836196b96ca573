"""Weights & Biases, offline: ``wandb sync RUN/tracking/wandb/wandb/offline-run-*`` uploads the run
where the user wants that; nothing else does."""

from collections.abc import Mapping

import wandb

from fedrouter.tracking.base import TrackedRun, Tracker

PROJECT = "fedrouter"


class WeightsAndBiases(Tracker):
    """Writes metrics and the configuration of one run of W&B.

    Args:
        run: the run; a resumed one writes a further offline folder under the same id.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._folder = run.folder
        self._run = wandb.init(
            project=PROJECT,
            name=run.name,
            id=run.stored_id(),
            config=dict(run.config),
            settings=wandb.Settings(
                mode="offline",
                root_dir=str(run.folder),
                console="off",  # the terminal is the command line's
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_meta=True,  # host, user and command line
                x_disable_stats=True,  # of the machine; they ask a cloud's metadata service
                x_disable_machine_info=True,
            ),
        )
        self._remove_links()

    def log(self, metrics: Mapping[str, float], round: int) -> None:
        """Write metrics with the round as their step."""
        self._run.log(dict(metrics), step=round)

    def close(self, *, finished: bool) -> None:
        """End the run, as a failed one if it has stopped before its end."""
        self._run.finish(exit_code=0 if finished else 1)
        self._remove_links()

    def _remove_links(self) -> None:
        """Remove W&B's link to its own log in the user's cache: a run folder whose links lead out
        of it is refused."""
        for link in self._folder.rglob("debug-core.log"):
            if link.is_symlink():
                link.unlink()
