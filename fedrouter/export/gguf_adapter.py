"""LoRA adapters as GGUF files, as llama.cpp's `convert_lora_to_gguf.py` writes them."""

from pathlib import Path

from gguf import GGUFWriter, LlamaFileType

from fedrouter.adapters.lora import LoraSpec
from fedrouter.adapters.targets import PREFIX, SUFFIXES
from fedrouter.export.llama_names import LlamaCppNames
from fedrouter.types import AdapterWeights

GGUF_SUFFIXES = (".lora_a", ".lora_b")


def write_gguf_adapter(
    path: Path, id: str, weights: AdapterWeights, spec: LoraSpec, names: LlamaCppNames
) -> None:
    """Write an adapter in float32.

    Args:
        path: the file to write.
        id: the task, which `llama-server` shows as the adapter's `task_name`.
        weights: under PEFT's names.
        spec: rank and alpha; llama.cpp takes the rank from the tensors.
        names: of the base model.

    Raises:
        ExportError: llama.cpp has no name for a target module.
    """
    writer = GGUFWriter(path, names.architecture)
    writer.add_type("adapter")
    writer.add_name(id)
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(spec.alpha))
    writer.add_string("adapter.lora.task_name", id)
    modules = dict.fromkeys(_module(name) for name in weights)
    for module in modules:
        a, b = (weights[f"{PREFIX}{module}{suffix}"] for suffix in SUFFIXES)
        name = names.tensor(f"{module}.weight")
        for suffix, array in zip(
            GGUF_SUFFIXES, (a, names.reorder(f"{module}.weight", b)), strict=True
        ):
            writer.add_tensor(name + suffix, array)
    write_file(writer)


def write_file(writer: GGUFWriter) -> None:
    """Write everything that was added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _module(name: str) -> str:
    """The target module of one of PEFT's tensor names."""
    bare = name.removeprefix(PREFIX)
    return bare.removesuffix(SUFFIXES[0]).removesuffix(SUFFIXES[1])
