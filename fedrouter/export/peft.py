"""Export for PEFT: an adapter folder for each task."""

import shutil
from pathlib import Path

from fedrouter.adapters.lora import write_adapter
from fedrouter.export.model_card import model_card
from fedrouter.export.source import BUILTIN_FOLDER, ExportSource

TEMPLATE_FILE = "chat_template.jinja"

USAGE = """\
From within this folder:

```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("{task}")
```

The base model is `{base}`. `chat_template.jinja` writes the prompts that the adapters were
trained on: `tokenizer.chat_template = open("{task}/chat_template.jinja").read()`.
"""


def write_peft(source: ExportSource, folder: Path) -> str:
    """Write the adapters, and the base model where it is built in.

    Args:
        source: the run.
        folder: an empty folder.

    Returns:
        How to load them, in Markdown.

    Raises:
        ExportError: it is not known what others load the base model from.
    """
    write_adapters(source, folder)
    return USAGE.format(task=min(source.adapters), base=source.required_base_name)


def write_adapters(source: ExportSource, folder: Path) -> None:
    """A PEFT folder for each task, with its model card and chat template."""
    for id, weights in source.adapters.items():
        write_adapter(folder / id, weights, source.spec, source.required_base_name)
        (folder / id / "README.md").write_text(model_card(source, id, "peft"), encoding="utf-8")
        write_template(source, folder / id)
    if source.builtin_base:
        shutil.copytree(source.base_path, folder / BUILTIN_FOLDER)


def write_template(source: ExportSource, folder: Path) -> None:
    """Write the chat template under the name by which transformers and LoRAX know it."""
    text = source.tokenizer.get_chat_template()
    (folder / TEMPLATE_FILE).write_text(text, encoding="utf-8", newline="")
