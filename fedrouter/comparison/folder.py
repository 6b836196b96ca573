"""The folder of a comparison.

::

    DIR/
      comparison.toml    the configuration of all cells, without the grid; its first line marks
                         the folder as a comparison
      cells/STRATEGY/SCENARIO/seed-N/    ordinary run folders
      results.json  results.csv  results.md    all finished cells; rewritten after each cell
"""

import csv
import io
import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import tomli_w

from fedrouter.comparison.grid import Cell
from fedrouter.comparison.results import CSV_COLUMNS, csv_row
from fedrouter.comparison.tables import markdown
from fedrouter.config import Config, dump_config, load_config, scenario_names, strategy_names
from fedrouter.config.differences import differences
from fedrouter.config.resolve import with_full_paths
from fedrouter.errors import RunError
from fedrouter.storage.atomic import write_bytes, write_json
from fedrouter.storage.run_folder import RunFolder, is_temporary, write_errors

MARKER = "# fedrouter comparison\n"


class ComparisonFolder:
    """The folder of one comparison. Nothing is written before `begin`.

    Args:
        path: the folder; it need not exist.
        config: the configuration; its grid may differ from the grid of an earlier call.

    Raises:
        RunError: the folder has other contents, or a comparison with another configuration.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self._shared = _without_grid(config)
        if not self._begun():
            self._refuse_foreign()
        elif difference := self._difference():
            raise RunError(
                f"{path} is a comparison with {difference}; set it back, "
                "or choose another folder with -o"
            )

    @property
    def config_toml(self) -> str:
        """The configuration of all cells as TOML, without the keys that the grid sets."""
        return tomli_w.dumps(self._shared)

    def begin(self) -> None:
        """Create the folder and mark it as a comparison, if it is not one yet."""
        if not self._begun():
            with self._writing():
                self.path.mkdir(parents=True, exist_ok=True)
                write_bytes(self._config, f"{MARKER}{self.config_toml}".encode())

    def run(self, cell: Cell) -> RunFolder:
        """The run folder of a cell; it need not exist."""
        return RunFolder(self.path / cell.run)

    def finished(self) -> dict[Cell, dict[str, Any]]:
        """The summaries of all finished cells, also those outside the current grid.

        Raises:
            RunError: a summary is damaged.
        """
        return {
            cell: self.run(cell).read_summary() for cell in self._cells() if self.run(cell).finished
        }

    def failures(self) -> dict[Cell, str]:
        """Cell -> the reason of its failure, according to results.json."""
        try:
            results = json.loads((self.path / "results.json").read_bytes())
            return {
                Cell(cell["strategy"], cell["scenario"], int(cell["seed"])): str(cell["reason"])
                for cell in results["failures"]
            }
        except (OSError, ValueError, KeyError, TypeError):  # the file is only a copy
            return {}

    def write(self, results: Mapping[str, Any]) -> None:
        """Write results.csv, results.md and results.json, each atomically."""
        table = io.StringIO()
        writer = csv.DictWriter(table, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_row(cell) for cell in results["cells"])
        with self._writing():
            write_bytes(self.path / "results.csv", table.getvalue().encode())
            write_bytes(self.path / "results.md", markdown(results).encode())
            write_json(self.path / "results.json", results)

    @property
    def _config(self) -> Path:
        return self.path / "comparison.toml"

    def _writing(self) -> AbstractContextManager[None]:
        return write_errors(self.path, "free some space, then give the same command again")

    def _begun(self) -> bool:
        try:
            return self._config.read_bytes().startswith(MARKER.encode())
        except OSError:
            return False

    def _cells(self) -> Iterator[Cell]:
        """The cells that have a folder; other files are ignored."""
        for path in sorted(self.path.glob("cells/*/*/seed-*")):
            strategy, scenario, seed = path.parts[-3:]
            number = seed.removeprefix("seed-")
            if strategy in strategy_names() and scenario in scenario_names() and number.isdecimal():
                yield Cell(strategy, scenario, int(number))

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; choose another folder with -o")
        if self.path.is_dir() and not all(is_temporary(entry) for entry in self.path.iterdir()):
            raise RunError(
                f"{self.path} is not empty and not a comparison; choose another folder with -o"
            )

    def _difference(self) -> str | None:
        """A description of the first key whose value differs between the folder's configuration
        and the given one; None if there is none."""
        found = differences(_without_grid(load_config(self._config)), self._shared)
        return next((text for text in found.values()), None)


def _without_grid(config: Config) -> dict[str, Any]:
    """The configuration as plain TOML types, with absolute paths, without the grid's keys."""
    raw = tomllib.loads(dump_config(with_full_paths(config)))
    del raw["strategy"], raw["seed"]
    raw["data"].pop("scenario", None)
    overrides = raw.pop("compare", {}).get("overrides")
    return {**raw, "compare": {"overrides": overrides}} if overrides else raw
