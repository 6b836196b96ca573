"""The cells of a comparison and their configurations."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedrouter.config import CompareConfig, Config, override, strategy_names
from fedrouter.config.resolve import resolve
from fedrouter.errors import ConfigError
from fedrouter.strategies import make_strategy

METHOD = "fedrouter"  # the strategy that all others are compared with
SCOPES = ("local", "global")  # the test rows that a cell is scored on

# Keys that overrides may not set: the grid sets them, or all cells share their values.
GRID_KEYS = ("strategy", "seed", "data.scenario", "compare")
SHARED_KEYS = ("model", "engine.device")


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: a strategy, a scenario and a seed."""

    strategy: str
    scenario: str
    seed: int

    @property
    def run(self) -> str:
        """The run folder's path inside the comparison's."""
        return f"cells/{self.strategy}/{self.scenario}/seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.strategy}, {self.scenario}, seed {self.seed}"


def grid(settings: CompareConfig) -> list[Cell]:
    """All cells in the order in which they run: by seed, so that a full table exists early."""
    return [
        Cell(strategy, scenario, seed)
        for seed in dict.fromkeys(settings.seeds)
        for scenario in dict.fromkeys(settings.scenarios)
        for strategy in dict.fromkeys(settings.strategies or strategy_names())
    ]


def cell_config(config: Config, cell: Cell) -> Config:
    """The configuration of one cell: the grid's keys, then the overrides of its scenario, then
    those of its strategy.

    Raises:
        ConfigError: one line that lists every fault.
    """
    placed = [
        f'strategy="{cell.strategy}"',
        f"seed={cell.seed}",
        f'data.scenario="{cell.scenario}"',
    ]
    own = config.compare.overrides
    return override(
        config.replace(compare=CompareConfig()),
        [*placed, *own.get(cell.scenario, ()), *own.get(cell.strategy, ())],
    )


def check_cells(config: Config, cells: Sequence[Cell]) -> None:
    """Check the configurations of all cells before any of them runs.

    Raises:
        ConfigError: one line that lists every fault.
    """
    faults = dict.fromkeys(_misplaced(config.compare), "")
    for cell in cells:
        try:
            make_strategy(resolve(cell_config(config, cell), tasks=()))
        except ConfigError as error:
            faults.setdefault(str(error), f"{cell.strategy} in {cell.scenario}: ")
    if faults:
        raise ConfigError("; ".join(where + fault for fault, where in faults.items()))


def _misplaced(settings: CompareConfig) -> list[str]:
    """A message for each override of a key that may not differ between cells."""
    return [
        f"compare.overrides.{name}: {text!r} cannot differ from cell to cell; {remedy}"
        for name, texts in settings.overrides.items()
        for text in texts
        for keys, remedy in (
            (GRID_KEYS, "compare.strategies, scenarios and seeds set it"),
            (SHARED_KEYS, "all cells share one base model"),
        )
        if _inside(text.partition("=")[0].strip(), keys)
    ]


def _inside(key: str, keys: Sequence[str]) -> bool:
    """Whether a key is one of `keys` or in a section of `keys`."""
    return any(key == known or key.startswith(f"{known}.") for known in keys)
