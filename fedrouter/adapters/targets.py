"""The modules of a base model that adapters attach to.

Which those are, and their shapes, is PEFT's to say: it is asked to adapt a copy of the
architecture that has no weights.
"""

import copy
import warnings
from dataclasses import dataclass

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import Linear as PeftLinear
from transformers import PreTrainedModel

from fedrouter.errors import AdapterError

PREFIX = "base_model.model."
SUFFIXES = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Target:
    """A linear module of the base model that every adapter has an A and a B for."""

    name: str
    in_features: int
    out_features: int

    def shapes(self, rank: int) -> dict[str, tuple[int, int]]:
        """PEFT's names of the adapter's A and B, in this order, with their shapes."""
        name_a, name_b = (f"{PREFIX}{self.name}{suffix}" for suffix in SUFFIXES)
        return {name_a: (rank, self.in_features), name_b: (self.out_features, rank)}


def find_targets(model: PreTrainedModel, config: LoraConfig) -> tuple[Target, ...]:
    """The modules that PEFT would adapt, in the order of their names.

    Args:
        model: the base model; it is not touched.
        config: says which; PEFT fills in its default for the architecture where it does not.

    Raises:
        AdapterError: the targets are unset where PEFT knows no default, match nothing, or match a
            module that is not linear or is the output layer.
    """
    tuner = _inject(model, config)
    head = model.get_output_embeddings()
    targets = []
    for name in sorted(tuner.targeted_module_names):
        layer = tuner.model.get_submodule(name)
        if not isinstance(layer, PeftLinear) or model.get_submodule(name) is head:
            raise AdapterError(
                f"adapter.targets matches {name!r}, which cannot carry an adapter; "
                "name linear modules inside the model's layers"
            )
        in_features = layer.get_parameter("lora_A.default.weight").shape[1]
        out_features = layer.get_parameter("lora_B.default.weight").shape[0]
        targets.append(Target(name, in_features, out_features))
    return tuple(targets)


def _inject(model: PreTrainedModel, config: LoraConfig) -> LoraModel:
    """PEFT's LoRA on a copy of the model's architecture that has no weights.

    Takes 10 ms on a tiny model and 100 ms on one of 7 billion parameters.
    """
    kind = model.config.model_type
    if config.target_modules is None and kind not in LoraModel.target_module_mapping:
        raise AdapterError(
            f"PEFT has no default adapter targets for the architecture {kind!r}; set "
            "adapter.targets to module names such as ['q_proj', 'v_proj'], or to 'all-linear'"
        )
    with torch.device("meta"):
        skeleton = type(model)(copy.deepcopy(model.config))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on saving, and on Conv1D, which it then heeds
            return LoraModel(skeleton, config, "default", low_cpu_mem_usage=True)
    except ValueError as error:
        raise AdapterError(
            f"adapter.targets does not fit the architecture {kind!r}: "
            f"{str(error).splitlines()[0]} Name linear modules inside the model's layers"
        ) from error
