"""Export of merged models: the base model with a task's adapter added to its weights."""

import warnings
from pathlib import Path

import torch
from peft import PeftModel

from fedrouter.export.model_card import model_card
from fedrouter.export.source import ExportSource

USAGE = """\
Each folder is a whole model:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{task}")
model = AutoModelForCausalLM.from_pretrained("{task}")
```
"""


def write_merged(source: ExportSource, folder: Path) -> str:
    """Write a model for each task, in the dtype of the base model.

    Args:
        source: the run.
        folder: an empty folder.

    Returns:
        How to load them, in Markdown.

    Raises:
        ModelError: the base model cannot be loaded, or is not the one that the run was trained on.
    """
    for id in source.adapters:
        _write_model(source, id, folder / id)
    return USAGE.format(task=min(source.adapters))


def _write_model(source: ExportSource, id: str, folder: Path) -> None:
    """Merge in float32, so that weights are rounded once."""
    base = source.load_base(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's use of transformers
        model = PeftModel.from_pretrained(base, source.run.path / "tasks" / id).merge_and_unload()
        model.to(source.base_config.dtype or torch.float32)
        model.save_pretrained(folder)
    source.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(source, id, "transformers"), encoding="utf-8")
