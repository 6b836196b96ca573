"""The command that writes a run for other programs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedrouter.cli.options import AsJson, RunDir


def export(
    folder: RunDir,
    to: Annotated[
        str, typer.Option("--to", metavar="TARGET", help="peft, vllm, gguf, ollama or merged.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    base_name: Annotated[
        str | None,
        typer.Option(
            "--base-name", help="What others load the base model from, such as a hub name."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a finished run's adapters for PEFT, vLLM, llama.cpp or Ollama, or merged models."""
    from fedrouter.cli.finished_run import read_finished

    read_finished(folder)
    from fedrouter.export import export_run

    export_run(folder, to, output, base_name)
    guide = output / "README.md"
    if as_json:
        print(json.dumps({"folder": str(output), "guide": str(guide)}))
    else:
        print(f"how to use it: {guide}")
