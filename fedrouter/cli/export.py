"""The command that writes a run for other programs."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
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
) -> None:
    """Write a finished run's adapters for PEFT, vLLM, llama.cpp or Ollama, or merged models."""
    from fedrouter.export import export_run

    export_run(folder, to, output, base_name)
    print(f"how to use it: {output / 'README.md'}")
