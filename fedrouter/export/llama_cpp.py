"""Export for llama.cpp: the base model and an adapter for each task as GGUF files."""

from pathlib import Path

from fedrouter.export.gguf_adapter import write_gguf_adapter
from fedrouter.export.gguf_base import can_write_base, write_gguf_base
from fedrouter.export.llama_names import LlamaCppNames
from fedrouter.export.peft import TEMPLATE_FILE, write_template
from fedrouter.export.source import ExportSource

BASE_FILE = "base.gguf"

USAGE = """\
From within this folder:

```
llama-server -m {base_file} {adapters} --lora-init-without-apply \\
  --jinja --chat-template-file {template}
```

`GET /lora-adapters` lists the tasks; a request chooses one by its number in that list, here
`{task}`: `"lora": [{{"id": 0, "scale": 1.0}}]`. With one adapter for all requests:
`llama-server -m {base_file} --lora-scaled {task}.gguf:1.0`.
"""

MAKE_BASE = """\
`base.gguf` is not in this folder. llama.cpp makes it from the base model's folder:
`python convert_hf_to_gguf.py {base} --outfile base.gguf`.
"""


def write_llama_cpp(source: ExportSource, folder: Path) -> str:
    """Write the GGUF files and the chat template.

    Args:
        source: the run.
        folder: an empty folder.

    Returns:
        How to serve them, in Markdown.

    Raises:
        ExportError: adapters for this base model cannot be written.
        ModelError: the base model cannot be loaded, or is not the one that the run was trained on.
    """
    note = write_gguf_files(source, folder)
    write_template(source, folder)
    tasks = sorted(source.adapters)
    usage = USAGE.format(
        base_file=BASE_FILE,
        adapters=" ".join(f"--lora {id}.gguf" for id in tasks),
        template=TEMPLATE_FILE,
        task=tasks[0],
    )
    return f"{note}\n{usage}" if note else usage


def write_gguf_files(source: ExportSource, folder: Path) -> str:
    """Write ``TASK.gguf`` for each task, and ``base.gguf`` where its kind is known.

    Returns:
        How to make the base model's file where it was not written, in Markdown; else "".
    """
    names = LlamaCppNames(source.base_config)
    for id, weights in source.adapters.items():
        write_gguf_adapter(folder / f"{id}.gguf", id, weights, source.spec, names)
    if not can_write_base(source):
        return MAKE_BASE.format(base=source.base_name or "FOLDER")
    write_gguf_base(source, folder / BASE_FILE)
    return ""
