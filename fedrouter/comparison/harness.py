"""Runs the unfinished cells of a comparison, one after the other."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrouter.comparison.folder import ComparisonFolder
from fedrouter.comparison.grid import Cell, cell_config, check_cells, grid
from fedrouter.comparison.results import combine
from fedrouter.config import Config, load_config
from fedrouter.data.loading import load_splits
from fedrouter.errors import FedRouterError, ModelError
from fedrouter.experiment import Experiment
from fedrouter.model.source import find_folder
from fedrouter.progress import Progress
from fedrouter.storage.run_folder import RunFolder, is_run

if TYPE_CHECKING:
    from fedrouter.evaluation.shared_model import SharedModel


def compare(config: Config, path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run the grid of `config.compare`; returns the contents of results.json.

    Finished cells are skipped and unfinished ones are resumed. The same call therefore continues an
    interrupted comparison, and a call with another grid extends it. A cell that fails does not stop
    the others; the next call retries it.

    Args:
        config: the configuration of all cells; the grid replaces `strategy`, `seed` and
            `data.scenario`.
        path: the comparison's folder: a new or empty one, or that of the same comparison.
        progress: receives progress callbacks.

    Raises:
        FedRouterError: the configuration, the folder, the data or the base model cannot be used
            (before anything is run or written), or the results cannot be written.
    """
    progress = progress or Progress()
    cells = grid(config.compare)
    check_cells(config, cells)
    folder = ComparisonFolder(path, config)
    left = [cell for cell in cells if not folder.run(cell).finished]
    before = {cell: why for cell, why in folder.failures().items() if cell not in cells}
    harness = _Harness(config, folder, before, progress)
    if left:
        harness.run(left, finished=len(cells) - len(left))
    return harness.write()


class _Harness:
    """One call of `compare`."""

    def __init__(
        self,
        config: Config,
        folder: ComparisonFolder,
        failures: dict[Cell, str],
        progress: Progress,
    ) -> None:
        self._config = config
        self._folder = folder
        self._failures = failures
        self._progress = progress

    def run(self, cells: Sequence[Cell], finished: int) -> None:
        """Run unfinished cells, and write the results after each.

        Args:
            cells: the cells to run.
            finished: number of cells of the grid that are finished already.
        """
        # An unusable path raises an error before anything is loaded or written.
        find_folder(self._config.model.name)
        load_splits(cell_config(self._config, cells[0]).data, cells[0].seed)
        from fedrouter.evaluation.shared_model import SharedModel  # imports torch

        shared_model = SharedModel.load(self._config.model, self._config.engine.device)
        self._check_base(shared_model.base.fingerprint)
        self._folder.begin()
        began = time.monotonic()
        for done, cell in enumerate(cells):
            spent = time.monotonic() - began
            left = f", about {duration(spent / done * (len(cells) - done))} left" if done else ""
            self._progress.message(
                f"cell {finished + done + 1} of {finished + len(cells)}: {cell}{left}"
            )
            try:
                self._run_cell(cell, shared_model)
            except FedRouterError as error:
                self._failures[cell] = str(error)
                self._progress.message(f"failed: {cell}: {error}")
            self.write()

    def write(self) -> dict[str, Any]:
        """Write the results of all finished cells; returns them."""
        summaries = self._folder.finished()
        failures = {cell: why for cell, why in self._failures.items() if cell not in summaries}
        metrics = {cell: self._folder.run(cell).read_metrics() for cell in summaries}
        results = combine(self._folder.config_toml, summaries, failures, metrics)
        self._folder.begin()
        self._folder.write(results)
        return results

    def _run_cell(self, cell: Cell, shared_model: "SharedModel") -> None:
        """Resume the cell's run, or start it if it has not begun."""
        path = self._folder.run(cell).path
        if is_run(path):
            config = load_config(path / "config.toml")
            Experiment(config, self._progress, shared_model).resume(RunFolder.open(path))
        else:
            Experiment(cell_config(self._config, cell), self._progress, shared_model).run(path)

    def _check_base(self, fingerprint: str) -> None:
        """Check that the base model is that of the finished cells."""
        for cell, summary in self._folder.finished().items():
            if summary["base_fingerprint"] != fingerprint:
                raise ModelError(
                    f"{self._folder.run(cell).path} was run with another base model than "
                    f"{self._config.model.name!r} now is; put back the one it had, "
                    "or choose another folder with -o"
                )


def duration(seconds: float) -> str:
    """A duration such as "45 s", "12 min" or "1 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
