"""Base models and adapters to test with."""

import numpy as np
import torch
from transformers import PreTrainedModel

from fedrouter.adapters.lora import LoraSpec, initial_weights
from support.tiny_models import tiny_model


def frozen(kind: str) -> PreTrainedModel:
    return tiny_model(kind).requires_grad_(False)


def random_weights(model: PreTrainedModel, spec: LoraSpec, seed: int) -> dict[str, np.ndarray]:
    """An adapter of which neither A nor B is zero."""
    draws = np.random.default_rng(seed)
    zero = initial_weights(model, spec, torch.Generator())
    return {name: draws.normal(0, 0.2, a.shape).astype(np.float32) for name, a in zero.items()}


def broken(weights: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    name = next(iter(weights))
    array = weights.pop(name)
    changed = {
        "missing": {},
        "renamed": {f"{name}.x": array},
        "transposed": {name: array.T},
        "float64": {name: array.astype(np.float64)},
        "nan": {name: np.where(array == array[0, 0], np.nan, array).astype(np.float32)},
        "infinite": {name: np.full_like(array, np.inf)},
    }
    return weights | changed[how]
