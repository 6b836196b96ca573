"""Export for Ollama: the GGUF files, and a Modelfile for each task."""

from pathlib import Path

from fedrouter.export.llama_cpp import BASE_FILE, write_gguf_files
from fedrouter.export.source import ExportSource
from fedrouter.export.template import around_instruction

MODELFILE = '''\
FROM ./{base_file}
ADAPTER ./{id}.gguf
TEMPLATE """{template}"""
PARAMETER temperature 0
'''

USAGE = """\
From within this folder, for each task:

```
ollama create {task} -f Modelfile.{task}
ollama run {task} "a prompt"
```
"""


def write_ollama(source: ExportSource, folder: Path) -> str:
    """Write the GGUF files and ``Modelfile.TASK`` for each task.

    Args:
        source: the run.
        folder: an empty folder.

    Returns:
        How to create the models, in Markdown.

    Raises:
        ExportError: adapters for this base model cannot be written.
        ModelError: the base model cannot be loaded, or is not the one that the run was trained on.
    """
    note = write_gguf_files(source, folder)
    before, after = around_instruction(source.tokenizer)
    template = f"{go_template(before)}{{{{ .Prompt }}}}{go_template(after)}"
    for id in source.adapters:
        text = MODELFILE.format(base_file=BASE_FILE, id=id, template=template)
        (folder / f"Modelfile.{id}").write_text(text, encoding="utf-8", newline="")
    usage = USAGE.format(task=min(source.adapters))
    return f"{note}\n{usage}" if note else usage


def go_template(text: str) -> str:
    """A text as a Go template that writes it; quotes are escaped too, as three end a TEMPLATE."""
    escapes = {"{": "{{ `{` }}", '"': '{{ `"` }}'}
    return "".join(escapes.get(character, character) for character in text)
