"""The modules of a base model that adapters attach to.

Which those are, and their shapes, is PEFT's to say: it is asked to adapt a copy of the
architecture that has no weights.
"""

import copy
import json
import warnings
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import Linear as PeftLinear
from transformers import PreTrainedModel

from fedrouter.adapters.default_targets import default_targets, last_parts
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
        config: says which. Where it does not, PEFT's default for the architecture is filled in, or
            `default_targets` where PEFT has none that fits.

    Raises:
        AdapterError: the targets match nothing, or match a module that is not linear or is the
            output layer; or they are unset and the architecture has no linear modules.
    """
    if config.target_modules is None:
        usual = LoraModel.target_module_mapping.get(_kind(model))
        with suppress(AdapterError):
            return _named_targets(model, config, usual)
        return _named_targets(model, config, list(default_targets(model)))
    return _named_targets(model, config, config.target_modules)


def default_note(model: PreTrainedModel, targets: tuple[str, ...] | str | None) -> str | None:
    """A line on where adapters attach, if their targets were unset and PEFT has no default."""
    usual = LoraModel.target_module_mapping.get(_kind(model), ())
    if not isinstance(targets, tuple) or set(targets) == set(usual):
        return None
    return (
        f"PEFT has no default adapter targets for the architecture {_kind(model)!r}; adapters "
        f"attach to {', '.join(last_parts(targets))} (set adapter.targets to choose others)"
    )


def _named_targets(
    model: PreTrainedModel, config: LoraConfig, names: Collection[str] | str | None
) -> tuple[Target, ...]:
    """The modules of these names or this pattern; PEFT fills in `config` if they can be adapted.

    Raises:
        AdapterError: as `find_targets`.
    """
    if not names:
        raise AdapterError(
            f"PEFT has no default adapter targets for the architecture {_kind(model)!r}; set "
            "adapter.targets to the names of linear modules inside the model's layers"
        )
    filled = copy.deepcopy(config)
    filled.target_modules = names if isinstance(names, str) else list(names)
    filled.lora_dropout = 0  # PEFT refuses fused experts with dropout, before it says which
    try:
        tuner = _inject(model, filled)
    except ValueError as error:
        raise _misfit(model, names, str(error).splitlines()[0]) from error
    targets = _adapted_modules(model, tuner)
    config.target_modules, config.fan_in_fan_out = filled.target_modules, filled.fan_in_fan_out
    return targets


def _adapted_modules(model: PreTrainedModel, tuner: LoraModel) -> tuple[Target, ...]:
    """The adapted modules.

    Raises:
        AdapterError: one of them is not linear, or is the output layer, or weights outside of
            modules are matched too: the fused experts of a mixture.
    """
    head = model.get_output_embeddings()
    fused = tuner.targeted_parameter_names
    if fused:
        raise AdapterError(
            f"adapter.targets matches the fused weight {min(fused)!r}, which cannot carry an "
            f"adapter; {_advice(model)}"
        )
    targets = []
    for name in sorted(tuner.targeted_module_names):
        layer = tuner.model.get_submodule(name)
        if not isinstance(layer, PeftLinear) or model.get_submodule(name) is head:
            raise AdapterError(
                f"adapter.targets matches {name!r}, which cannot carry an adapter; {_advice(model)}"
            )
        in_features = layer.get_parameter("lora_A.default.weight").shape[1]
        out_features = layer.get_parameter("lora_B.default.weight").shape[0]
        targets.append(Target(name, in_features, out_features))
    return tuple(targets)


def _inject(model: PreTrainedModel, config: LoraConfig) -> LoraModel:
    """PEFT's LoRA on a copy of the model's architecture that has no weights.

    Takes 10 ms on a tiny model and 100 ms on one of 7 billion parameters.

    Raises:
        ValueError: PEFT cannot adapt what `config` names.
    """
    with torch.device("meta"):
        skeleton = type(model)(copy.deepcopy(model.config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on saving, and on Conv1D, which it then heeds
        return LoraModel(skeleton, config, "default", low_cpu_mem_usage=True)


def _misfit(model: PreTrainedModel, targets: object, reason: str) -> AdapterError:
    """The error for targets that PEFT refuses."""
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if isinstance(targets, str) and targets in names:
        return AdapterError(
            f"adapter.targets = {targets!r} is one pattern for whole module names and matches "
            f"none; for modules of this name set adapter.targets = {json.dumps([targets])}"
        )
    return AdapterError(
        f"adapter.targets does not fit the architecture {_kind(model)!r} ({reason.rstrip('.')}); "
        f"{_advice(model)}"
    )


def _advice(model: PreTrainedModel) -> str:
    """Targets that fit."""
    names = last_parts(default_targets(model))
    if not names:
        return "name linear modules inside the model's layers"
    return (
        "name linear modules inside the model's layers, such as adapter.targets = "
        f"{json.dumps(names)}"
    )


def _kind(model: PreTrainedModel) -> str:
    return str(model.config.model_type)
