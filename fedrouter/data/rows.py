"""One sample of instruction data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """An instruction with the response a model should learn to give.

    `task` is the true task's name where the data has one. It is used for splitting, for the oracle
    and for metrics, never by the method itself. `group` is the value of the column named by
    ``data.split_column``, used only to deal rows to clients.
    """

    instruction: str
    response: str
    task: str | None = None
    group: str | None = None
