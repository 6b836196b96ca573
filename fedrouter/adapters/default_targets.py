"""Where adapters attach in architectures that PEFT has no default for."""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

RECURRENT = "in_proj"  # of layers without attention; PEFT refuses Mamba's other projections


def default_targets(model: PreTrainedModel) -> tuple[str, ...]:
    """The attention projections of the text model, by PEFT's rule for "all-linear".

    That is every linear module inside an attention module of the decoder; in a model without
    attention, the input projections of its recurrent layers, or else all its linear modules.

    Returns:
        The last parts of the modules' names, sorted; whole names where those would match other
        modules too, such as an image encoder's.
    """
    decoder = model.get_decoder()
    linear = [
        name
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not model.get_output_embeddings()
    ]
    inside = [name for name in linear if _in_attention(decoder, name)]
    chosen = inside or [name for name in linear if _last(name) == RECURRENT] or linear
    prefix = next(f"{name}." if name else "" for name, m in model.named_modules() if m is decoder)
    whole = {prefix + name for name in chosen}
    short = {_last(name) for name in chosen}
    matched = {name for name, _ in model.named_modules() if _last(name) in short}
    return tuple(sorted(short if matched == whole else whole))


def last_parts(targets: tuple[str, ...]) -> list[str]:
    """The last parts of module names, each once, sorted."""
    return sorted({_last(name) for name in targets})


def _in_attention(decoder: nn.Module, name: str) -> bool:
    """Whether a module is part of an attention module, by the names of classes and attributes.

    Routers of attention experts are left out: they see tokens without their sequences.
    """
    parts = name.split(".")[:-1]
    if "router" in parts:
        return False
    for i, part in enumerate(parts, start=1):
        kind = type(decoder.get_submodule(".".join(parts[:i]))).__name__
        if "attn" in part or "attention" in part or "Attention" in kind:
            return True
    return False


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
