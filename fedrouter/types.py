"""Types of fields that cross layers: arrays, adapter weights, names, ids."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrouter.serialization import (
    ArrayField,
    ByteField,
    IntegerField,
    SpaceField,
    WeightsField,
)

Tensor = TypeVar("Tensor")

FloatArray = Annotated[NDArray[np.float32], ArrayField()]
SpaceArray = Annotated[NDArray[np.float32], SpaceField()]
ByteArray = Annotated[NDArray[np.uint8], ByteField()]
IntegerArray = Annotated[NDArray[np.unsignedinteger], IntegerField()]
# PEFT's tensor names (``base_model.model....lora_A.weight``) to float32 matrices. Where only one
# of LoRA's two matrices is shared, that matrix of every module.
AdapterWeights = Annotated[Mapping[str, NDArray[np.float32]], WeightsField()]
LoraMatrices = Literal["AB", "A", "B", ""]  # which of an adapter's two matrices; "": neither
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]  # a folder's name too
ClientId = Annotated[int, Field(ge=0, lt=2**31)]


def select_matrices(tensors: Mapping[str, Tensor], matrices: LoraMatrices) -> dict[str, Tensor]:
    """Select the tensors (or shapes) of LoRA's matrices A, B or both from those of an adapter."""
    suffixes = tuple(f"lora_{matrix}.weight" for matrix in matrices)
    return {name: tensor for name, tensor in tensors.items() if name.endswith(suffixes)}


def flatten(weights: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """All numbers of an adapter as one vector, tensors in order of name."""
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def moved(start: AdapterWeights, movement: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """An adapter after a movement of shape (d,), tensors in order of name as in `flatten`."""
    result, begin = {}, 0
    for name in sorted(start):
        end = begin + start[name].size
        step = movement[begin:end].reshape(start[name].shape)
        result[name] = (start[name] + step).astype(np.float32)
        begin = end
    return {name: result[name] for name in start}
