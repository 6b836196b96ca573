"""The arrays that cross layers, and which part of an adapter is meant.

`AdapterWeights` maps PEFT's tensor names (``base_model.model....lora_A.weight``) to float32 arrays.
Where only one of LoRA's two matrices is shared, it holds that matrix of every module.
"""

from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
AdapterWeights = Mapping[str, FloatArray]
LoraMatrices = Literal["AB", "A", "B", ""]  # which of an adapter's two matrices; "": nothing
Tensor = TypeVar("Tensor")


def select_matrices(tensors: Mapping[str, Tensor], parts: LoraMatrices) -> dict[str, Tensor]:
    """Of an adapter's tensors (or their shapes), by name, those of the matrices A, B or both."""
    suffixes = tuple(f"lora_{part}.weight" for part in parts)
    return {name: tensor for name, tensor in tensors.items() if name.endswith(suffixes)}
