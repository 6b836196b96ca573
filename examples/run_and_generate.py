"""Discover the tasks in the clients' rows, train an adapter for each, and answer prompts.

    python examples/run_and_generate.py runs/example [KEY=VALUE ...]

Without `data.train=FILE` the rows are those of the eight built-in tasks, two on each of eight
clients.
"""

import json
import sys
from pathlib import Path

from fedrouter import RoutedModel, load_config, run

SETTINGS = [
    "data.scenario=dual",
    "data.builtin_train=160",
    "federation.clients=8",
    "federation.rounds=7",
    "clustering.n_local=2",  # leave both out if you do not know the numbers of tasks
    "clustering.n_global=8",
    "training.steps=5",
    "training.batch_size=8",
    "training.lr=8e-3",
    r'model.template="{instruction}\n"',
]
PROMPTS = [
    "Mrs Barnes was born on 6 April 2007.",
    "[09:30] @nadia >> #help >> everything has stopped here ... the printer is on fire",
]


def main(folder: Path, settings: list[str]) -> None:
    """Run into a folder, unless there is a finished run, and answer two prompts."""
    if not (folder / "summary.json").exists():
        run(load_config(None, [*SETTINGS, *settings]), folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for task in summary["tasks"]:
        print(f"{task['id']}: {task['samples']} samples of the clients {task['clients']}")
    for answer in RoutedModel.load(folder).generate(PROMPTS):
        known = "" if answer.known else ", outside every task"
        print(f"{answer.prompt!r}\n  {answer.task} (confidence {answer.confidence:.2f}{known})")
        print(f"  {answer.text!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
