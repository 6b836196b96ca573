"""Exchanges, bytes and time of a run with and without secure aggregation, on nano.

Eight clients, the built-in tasks, two steps per local task and round, no evaluation. In scenario
`all` every client has every task, in `dual` two of eight.

``python -m bench.secure_sums [--rounds N] [--settings fedavg,all,dual]``
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.output import publish
from fedrouter.config import load_config
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.experiment import run

KNOWN = ("clustering.n_global=8", "privacy.min_clients=2")
SETTINGS = {
    "fedavg": ("strategy=fedavg",),
    "all": ("clustering.n_local=8", *KNOWN, "data.scenario=all"),
    "dual": ("clustering.n_local=2", *KNOWN, "data.scenario=dual"),
}
exchanges = 0


class Counted(InProcessEngine):
    """Counts the exchanges that are not empty."""

    def run(self, requests: Sequence[Any]) -> Iterator[Any]:
        """As in `InProcessEngine`."""
        global exchanges  # noqa: PLW0603
        exchanges += bool(requests)
        return super().run(requests)


def measured(setting: str, secure: bool, rounds: int) -> dict[str, Any]:
    """One run."""
    global exchanges  # noqa: PLW0603
    exchanges = 0
    sets = [*SETTINGS[setting], f"federation.rounds={rounds}", "aggregation.robust=none"]
    sets += ["training.steps=2", "evaluation.enabled=false"]
    sets += [f"privacy.secure_aggregation={str(secure).lower()}"]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        summary = run(load_config(None, sets), Path(folder) / "run")
    return {
        "setting": setting,
        "sums": "secure" if secure else "plain",
        "exchanges": exchanges,
        "MB up": summary["bytes"]["up"] / 1e6,
        "MB down": summary["bytes"]["down"] / 1e6,
        "tasks": len(summary["tasks"]) or 1,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    asked = parser.parse_args()
    import fedrouter.engines.in_process as engines

    engines.InProcessEngine = Counted  # type: ignore[misc]
    rows = [
        measured(setting, secure, asked.rounds)
        for setting in asked.settings.split(",")
        for secure in (False, True)
    ]
    publish(
        "secure_sums", "Secure aggregation", rows, [f"{asked.rounds} rounds, transport float16"]
    )


if __name__ == "__main__":
    main()
