"""Export for vLLM: a folder that its filesystem resolver loads adapters from by their names.

The resolver takes a PEFT folder only if its `base_model_name_or_path` is the served model's name.
"""

import shlex
from pathlib import Path

from fedrouter.errors import ExportError
from fedrouter.export.peft import TEMPLATE_FILE, write_adapters, write_template
from fedrouter.export.source import BUILTIN_FOLDER, ExportSource

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be
MAX_LORAS = 8  # adapters in one batch, at most; each costs memory

USAGE = """\
From within this folder, with every adapter named on the command line:

```
{serve} \\
  --lora-modules {modules}
```

or with vLLM's filesystem resolver, which loads an adapter when a request first names it (vLLM
advises against this where clients are not trusted):

```
export VLLM_ALLOW_RUNTIME_LORA_UPDATING=true VLLM_PLUGINS=lora_filesystem_resolver
export VLLM_LORA_RESOLVER_CACHE_DIR="$PWD"
{serve}
```

A request's `model` is the task: `{task}`.
"""


def write_vllm(source: ExportSource, folder: Path) -> str:
    """Write the adapters, the chat template, and the base model where it is built in.

    Args:
        source: the run.
        folder: an empty folder.

    Returns:
        The commands that serve it, in Markdown.

    Raises:
        ExportError: it is not known what others load the base model from, or the adapters' rank is
            larger than vLLM's largest.
    """
    command = serve_command(source)
    write_adapters(source, folder)
    write_template(source, folder)
    modules = " ".join(f"{id}={id}" for id in sorted(source.adapters))
    return USAGE.format(serve=command, modules=modules, task=min(source.adapters))


def serve_command(source: ExportSource) -> str:
    """The command line of vLLM's server, without the adapters."""
    name, rank = source.required_base_name, source.spec.rank
    if rank > RANKS[-1]:
        raise ExportError(
            f"vLLM serves adapters of rank {RANKS[-1]} at most, these are of rank {rank}; "
            "export with --to merged"
        )
    model = BUILTIN_FOLDER if source.builtin_base else name
    renamed = ["--served-model-name", name] if model != name else []
    options = {
        "--max-lora-rank": min(allowed for allowed in RANKS if allowed >= rank),
        "--max-loras": min(len(source.adapters), MAX_LORAS),
        "--chat-template": TEMPLATE_FILE,
    }
    words = [str(word) for option in options.items() for word in option]
    return shlex.join(["vllm", "serve", model, *renamed, "--enable-lora", *words])
