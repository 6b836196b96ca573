"""Writes a finished run for another program, whole or not at all."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from fedrouter.errors import ExportError, MissingExtraError
from fedrouter.export.source import ExportSource, read_source
from fedrouter.server.summary import TASK_COLUMNS, task_rows
from fedrouter.storage.atomic import replace_folder, write_json
from fedrouter.storage.run_folder import write_errors

MARK_FILE = "export.json"  # a folder that has it is an export, which another one may replace


@dataclass(frozen=True)
class Target:
    """A program that a run is exported for.

    Attributes:
        module: where `function` is; imported when it is needed, as it may need an extra.
        function: writes the files into an empty folder and returns how to use them.
        title: the program's name.
        needs_gguf: whether the package gguf is needed.
    """

    module: str
    function: str
    title: str
    needs_gguf: bool = False

    def writer(self) -> Callable[[ExportSource, Path], str]:
        """The function."""
        if self.needs_gguf and importlib.util.find_spec("gguf") is None:
            raise MissingExtraError(f"an export for {self.title}", "gguf")
        function: Callable[[ExportSource, Path], str] = getattr(
            import_module(f"fedrouter.export.{self.module}"), self.function
        )
        return function


TARGETS = {
    "peft": Target("peft", "write_peft", "PEFT"),
    "vllm": Target("vllm", "write_vllm", "vLLM"),
    "gguf": Target("llama_cpp", "write_llama_cpp", "llama.cpp", needs_gguf=True),
    "ollama": Target("ollama", "write_ollama", "Ollama", needs_gguf=True),
    "merged": Target("merged", "write_merged", "transformers"),
}


def export_run(run: Path, target: str, output: Path, base_name: str | None = None) -> None:
    """Export a finished run.

    Args:
        run: the run folder.
        target: a name in `TARGETS`.
        output: the folder to make; an earlier export there is replaced.
        base_name: what others load the base model from; None: the run's hub name, or the folder
            with the built-in base model in the export.

    Raises:
        ExportError: there is no such target, `output` is in use by something else, or the target
            cannot take this run.
        RunError: `run` is not a finished run, its adapters stay with the clients, or `output`
            cannot be written.
        ModelError: the base model cannot be loaded, or is not the one that the run was trained on.
        AdapterError: a task's adapter is damaged.
        MissingExtraError: the package gguf is not installed, and the target needs it.
    """
    if target not in TARGETS:
        raise ExportError(f"there is no target {target!r} (--to); it is {', '.join(TARGETS)}")
    output = output.absolute()
    check_free(output)
    write = TARGETS[target].writer()
    source = read_source(run, base_name)
    with write_errors(output, "free some space and export again"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with replace_folder(output) as folder:
            usage = write(source, folder)
            (folder / "README.md").write_text(_readme(source, target, usage), encoding="utf-8")
            write_json(folder / MARK_FILE, _mark(source, target))


def check_free(output: Path) -> None:
    """Refuse a folder that holds something other than an earlier export.

    Raises:
        ExportError: it does, or is a file.
    """
    if output.is_dir():
        if not any(output.iterdir()) or _is_export(output):
            return
        raise ExportError(f"{output} is not empty and not an export; choose another folder with -o")
    if output.exists() or output.is_symlink():
        raise ExportError(f"{output} is a file; choose another folder with -o")


def _is_export(folder: Path) -> bool:
    try:
        return "fedrouter_export" in json.loads((folder / MARK_FILE).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _mark(source: ExportSource, target: str) -> dict[str, object]:
    return {
        "fedrouter_export": target,
        "base_model": source.base_name,
        "base_fingerprint": source.summary["base_fingerprint"],
        "tasks": sorted(source.adapters),
    }


def _readme(source: ExportSource, target: str, usage: str) -> str:
    head = f"# Adapters of a fedrouter run, for {TARGETS[target].title}"
    rows = task_rows(source.summary["tasks"])
    table: list[list[object]] = [[*TASK_COLUMNS], ["---"] * len(TASK_COLUMNS), *rows]
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in table if rows]
    return "\n".join([head, "", *lines, *([""] if lines else []), usage])
