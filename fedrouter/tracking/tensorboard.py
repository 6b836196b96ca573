"""TensorBoard: event files, read by ``tensorboard --logdir RUN/tracking/tensorboard``."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from fedrouter.tracking.base import TrackedRun, Tracker


class TensorBoard(Tracker):
    """Writes scalars, and the configuration as a text.

    Args:
        run: the run; the rounds after `run.round`, which a stopped run has written, are hidden.
    """

    def __init__(self, run: TrackedRun) -> None:
        resumed = any(run.folder.glob("events.*"))
        self._writer = SummaryWriter(str(run.folder), purge_step=run.round + 1 if resumed else None)
        if not resumed:
            lines = [f"    {key} = {value!r}" for key, value in run.config.items()]
            self._writer.add_text("config", "\n".join(lines))

    def log(self, metrics: Mapping[str, float], round: int) -> None:
        """Write scalars, and see that they are on the disk."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, round)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:  # noqa: ARG002 - event files do not say
        """Close the event file."""
        self._writer.close()
