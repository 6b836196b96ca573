"""Reading a file of rows, against Hugging Face datasets.

Made-up rows of JSON Lines, each side in a process of its own, by turns. Ours are a list of checked
`Row`s; those of datasets are Arrow tables on the disk (load), from which a program then gets all
rows as Python objects at once (to_list) or one after the other (iterate). Seconds are those of the
processor, which other work on the machine changes little.

``python -m bench.reading [--full]``
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.output import publish

WORDS = 5000
REPEATS = 3


def write_rows(path: Path, number: int) -> None:
    """Rows of about 240 bytes, all different."""
    draws = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(number):
            words = [f"word{word}" for word in draws.integers(WORDS, size=20)]
            question, answer = " ".join(words[:12]), " ".join(words[12:])
            row = {"instruction": f"{i} {question}", "response": answer, "task": f"t{i % 8}"}
            file.write(json.dumps(row) + "\n")


def fedrouter(path: Path) -> None:
    """All rows, read and checked."""
    from fedrouter.config import DataConfig
    from fedrouter.data.loading import read_rows

    read_rows(path, DataConfig())


def fedrouter_split(path: Path) -> None:
    """All rows, read, checked and split into training and test rows."""
    from fedrouter.config import DataConfig
    from fedrouter.data.loading import load_splits

    load_splits(DataConfig(train=path), seed=0)


def datasets_load(path: Path) -> None:
    """All rows in datasets' own tables, without a cache of an earlier run."""
    _dataset(path)


def datasets_to_list(path: Path) -> None:
    """All rows as Python objects at once."""
    _dataset(path).to_list()


def datasets_iterate(path: Path) -> None:
    """All rows as Python objects, one after the other, none kept."""
    for _ in _dataset(path):
        pass


SIDES: dict[str, Callable[[Path], None]] = {
    "fedrouter": fedrouter,
    "fedrouter, split": fedrouter_split,
    "datasets, load": datasets_load,
    "datasets, to_list": datasets_to_list,
    "datasets, iterate": datasets_iterate,
}


def measure(side: str, path: Path) -> dict[str, float]:
    """Seconds and the process's largest memory, imports left out of the former."""
    import fedrouter.data.loading  # noqa: F401

    if side.startswith("datasets"):
        import datasets  # noqa: F401
    wall, processor = time.perf_counter(), time.process_time()
    SIDES[side](path)
    return {
        "seconds": time.process_time() - processor,
        "wall": time.perf_counter() - wall,
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million rows instead of 100,000")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is not None:
        print(json.dumps(measure(arguments.side, arguments.path)))
        return
    number = 1_000_000 if arguments.full else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, number)
        runs = [{side: _in_a_process(side, path) for side in SIDES} for _ in range(REPEATS)]
    rows = []
    for side in SIDES:
        found = [run[side] for run in runs]
        median = {key: statistics.median(one[key] for one in found) for key in found[0]}
        ratios = [run[side]["seconds"] / run["datasets, to_list"]["seconds"] for run in runs]
        rows.append({"side": side, **median, "of to_list": statistics.median(ratios)})
    publish("reading", f"Reading {number:,} rows of JSON Lines, median of {REPEATS}", rows)


def _dataset(path: Path) -> "datasets.Dataset":  # type: ignore[name-defined]  # noqa: F821
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        # The table stays mapped into memory when its file is gone.
        return datasets.load_dataset("json", data_files=str(path), cache_dir=cache, split="train")


def _in_a_process(side: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.reading", "--side", side, "--path", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
