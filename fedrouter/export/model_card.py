"""Model cards: what a task's adapter is, what it was trained on and how well it does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from fedrouter.evaluation.metrics import most_frequent
from fedrouter.export.source import BUILTIN_FOLDER, ExportSource
from fedrouter.export.template import around_instruction
from fedrouter.server.summary import client_list, privacy_line

METRICS = {
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "exact_match": "exact match",
    "loss": "loss (nats per token)",
}


def model_card(source: ExportSource, id: str, library: str) -> str:
    """The README.md of a task's adapter, or of a model that it is merged into.

    Args:
        source: the run.
        id: the task.
        library: the library that loads the folder, as the Hugging Face hub names it.
    """
    sections = [
        _front_matter(source, library),
        f"# {id}",
        _introduction(source),
        _facts(source, id),
        "## Scores",
        _scores(source, id),
        "## Prompt",
        _prompt(source),
        "## Licence",
        _licence(source),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(source: ExportSource, library: str) -> str:
    on_hub = source.base_name if source.base_name != BUILTIN_FOLDER else None
    data = ModelCardData(
        base_model=on_hub,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["lora", "federated-learning", "fedrouter"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _introduction(source: ExportSource) -> str:
    if not source.summary["tasks"]:
        return "The adapter of a federated fine-tuning run of fedrouter."
    return (
        "One task of a federated fine-tuning run of fedrouter, which finds the tasks in its "
        "clients' data and trains a LoRA adapter for each."
    )


def _facts(source: ExportSource, id: str) -> str:
    task, summary, spec = source.task(id), source.summary, source.spec
    labels = ", ".join(f"{name} {count}" for name, count in task["true_tasks"].items())
    samples = "" if task["samples"] is None else f"{task['samples']}"
    targets = spec.targets if isinstance(spec.targets, str) else ", ".join(spec.targets or ())
    facts = {
        "task": id,
        "training samples": samples,
        "of clients": client_list(task["clients"]),
        "by their true task": labels,
        "strategy": summary["strategy"],
        "rounds": summary["rounds"],
        "clients in all": summary["clients"],
        "privacy": privacy_line(summary.get("privacy")),
        "LoRA": f"rank {spec.rank}, alpha {spec.alpha:g}, on {targets}",
        "base model": source.base_name or "",
        "base model's fingerprint": summary["base_fingerprint"],
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _scores(source: ExportSource, id: str) -> str:
    """The scores of the test rows of the task's most frequent true task, or of all rows."""
    metrics = source.summary["metrics"]
    labels = source.task(id)["true_tasks"]
    label = most_frequent(labels) if labels else None
    by_task: Mapping[str, Any] = metrics["by_task"] or {}
    table = by_task.get(label, metrics) if label is not None else metrics
    if not table.get("global"):
        return "The run was not evaluated."
    rows = f"Test rows of `{label}`" if table is not metrics else "All test rows of the run"
    columns = {"base model": table.get("base"), "routed adapters": table["global"]}
    measured = {name: scores for name, scores in columns.items() if scores}
    lines = [
        f"| {title} | " + " | ".join(f"{scores[key]:.3f}" for scores in measured.values()) + " |"
        for key, title in METRICS.items()
    ]
    head = f"| | {' | '.join(measured)} |"
    note = f"{rows}, each answered by the adapter that it was routed to."
    return "\n".join([note, "", head, "| --- |" + " --- |" * len(measured), *lines])


def _prompt(source: ExportSource) -> str:
    before, after = around_instruction(source.tokenizer)
    return (
        "What the adapter was trained to continue (`chat_template.jinja` writes the same):\n\n"
        f"````text\n{before}{{instruction}}{after}\n````"
    )


def _licence(source: ExportSource) -> str:
    named = _base_licence(Path(source.base_path))
    base = f"The base model's licence is {named}." if named else "The base model has its licence."
    return (
        f"{base} The run knows no terms of its clients' data: name the licence of this model here, "
        "and as `license` at the top, before you publish it."
    )


def _base_licence(folder: Path) -> str | None:
    """The licence in the card of a base model's folder, if it has one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    licence = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    return str(licence) if licence else None
