"""The output of the demo: scores of routed adapters, averaged adapter and base model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrouter.cli.terminal import print_routing, print_scores, print_tasks
from fedrouter.data.loading import load_splits
from fedrouter.data.rows import Row
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.storage.run_folder import RunFolder

CONTESTANTS = {"base": "base", "averaged": "averaged", "global": "routed"}


def show_story(routed: Path, averaged: Path) -> None:
    """Print the discovered tasks, the scores by task, and three prompts with their answers.

    Args:
        routed: the finished FedRouter run.
        averaged: the finished FedAvg run on the same data.
    """
    model = RoutedModel.load(routed)
    ours, theirs = RunFolder.open(routed).read_summary(), RunFolder.open(averaged).read_summary()
    by_task = {
        task: {**scores, "averaged": theirs["metrics"]["by_task"][task]["global"]}
        for task, scores in ours["metrics"]["by_task"].items()
    }
    print_tasks(ours["tasks"])
    print_routing(ours["routing"])
    print_scores(
        "All tasks: base model, one averaged adapter, routed adapters", by_task, CONTESTANTS
    )
    _show_client(model, by_task)
    _show_examples(model)
    print(f"\nrun folders: {routed} (routed), {averaged} (one averaged adapter)")
    print(f'next: fedrouter tasks {routed}; fedrouter generate {routed} "a prompt of yours"')


def _show_client(model: RoutedModel, by_task: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the scores of the client whose tasks lose most with one averaged adapter."""
    held: dict[int, set[str]] = {}
    for task in model.tasks:
        for client in task["clients"]:
            held.setdefault(client, set()).add(model.majority[task["id"]])

    def lost(client: int) -> float:
        scores = [by_task[name] for name in sorted(held[client])]
        return float(sum(one["global"]["rouge1"] - one["averaged"]["rouge1"] for one in scores))

    client = max(held, key=lost)
    title = f"Client {client}, whose {len(held[client])} tasks suffer most from a shared adapter"
    print_scores(title, {name: by_task[name] for name in sorted(held[client])}, CONTESTANTS)


def _show_examples(model: RoutedModel) -> None:
    """Print one test prompt of each of three tasks with its route and its answer."""
    firsts: dict[str, Row] = {}
    for row in load_splits(model.config.data, model.config.seed).test:
        firsts.setdefault(str(row.task), row)
    rows = list(firsts.values())[:3]
    for row, answer in zip(rows, model.generate([row.instruction for row in rows]), strict=True):
        found = f"{answer.task}, mostly {model.majority[answer.task]}"
        print(f"\nprompt:   {_indented(row.instruction)}")
        print(f"routed:   {found} (confidence {answer.confidence:.2f})")
        print(f"answer:   {_indented(answer.text)}")
        print(f"expected: {_indented(row.response)}")


def _indented(text: str) -> str:
    return text.strip().replace("\n", "\n          ")
