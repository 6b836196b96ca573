"""llama.cpp's names of a base model's weights, and its order of their rows.

For Llama, llama.cpp turns neighbouring rows of a query or key head into a rotation's pair, where
transformers takes rows that are half a head apart; the converter of llama.cpp
(`LlamaModel.permute`) reorders the rows of weights, and so does this module.
"""

from functools import cached_property

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, TensorNameMap, get_tensor_name_map
from transformers import PreTrainedConfig

from fedrouter.errors import ExportError
from fedrouter.types import FloatArray

ARCHITECTURES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
    "gemma2": MODEL_ARCH.GEMMA2,
}


class LlamaCppNames:
    """Names and rows of one base model.

    Args:
        config: the base model's.

    Raises:
        ExportError: the architecture is none of `ARCHITECTURES`.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        if config.model_type not in ARCHITECTURES:
            raise ExportError(
                f"GGUF adapters are written for {', '.join(ARCHITECTURES)}, not for "
                f"{config.model_type!r}; export with --to peft, then use llama.cpp's "
                "convert_lora_to_gguf.py"
            )
        self._architecture = ARCHITECTURES[config.model_type]
        self._config = config

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        name: str = MODEL_ARCH_NAMES[self._architecture]
        return name

    def tensor(self, name: str) -> str:
        """llama.cpp's name of a parameter of transformers, such as ``blk.0.attn_q.weight``."""
        found: str | None = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ExportError(
                f"llama.cpp has no name for {name!r} of a {self.architecture} model; "
                "export with --to merged or --to peft"
            )
        return found

    def reorder(self, name: str, rows: FloatArray) -> FloatArray:
        """A weight, or the B of its adapter, with its rows in llama.cpp's order.

        Args:
            name: the parameter's name in transformers.
            rows: shape (out features, any).
        """
        heads = {
            "q_proj": self._config.num_attention_heads,
            "k_proj": self._config.num_key_value_heads,
        }.get(name.split(".")[-2])
        if self._architecture != MODEL_ARCH.LLAMA or heads is None:
            return rows
        halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))

    @cached_property
    def _map(self) -> TensorNameMap:
        return get_tensor_name_map(self._architecture, self._config.num_hidden_layers)
