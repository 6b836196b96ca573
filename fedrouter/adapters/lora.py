"""LoRA adapters: their settings, first weights, checks, and PEFT's folders.

An adapter adds ``alpha / rank * B A dropout(x)`` to the output of each target module (Hu et al.,
"LoRA: Low-Rank Adaptation of Large Language Models", section 4.1).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from fedrouter.adapters.targets import PREFIX, SUFFIXES, Target, default_note, find_targets
from fedrouter.config import AdapterConfig
from fedrouter.errors import AdapterError
from fedrouter.storage.atomic import replace_folder, write_json, write_tensors
from fedrouter.storage.formats import parse_json
from fedrouter.types import AdapterWeights, FloatArray

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class LoraSpec:
    """What all adapters of a run have in common.

    Attributes:
        rank: rank of the product B A.
        alpha: the product is scaled by alpha / rank.
        dropout: probability with which an element of an adapter's input is dropped in training.
        targets: module names, or one pattern, as PEFT's `target_modules`; None: PEFT's default for
            the architecture.
        fan_in_fan_out: the targets keep their weights transposed (GPT-2's Conv1D); only PEFT
            needs to know, when it loads a folder.

    Raises:
        AdapterError: a value is out of range.
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.05
    targets: tuple[str, ...] | str | None = None
    fan_in_fan_out: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf or not 0 <= self.dropout < 1:
            raise AdapterError(
                f"an adapter of rank {self.rank}, alpha {self.alpha} and dropout {self.dropout} "
                "is not possible; rank and alpha are positive, dropout is in [0, 1)"
            )

    @classmethod
    def from_config(cls, config: AdapterConfig) -> "LoraSpec":
        """The `[adapter]` section of a configuration."""
        return cls(config.rank, config.alpha, config.dropout, _as_targets(config.targets))

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank

    def peft_config(self, base_name: str | None = None) -> LoraConfig:
        """The same settings as PEFT's configuration, for inference on the base `base_name`."""
        targets = list(self.targets) if isinstance(self.targets, tuple) else self.targets
        return LoraConfig(
            base_model_name_or_path=base_name,
            task_type="CAUSAL_LM",
            inference_mode=True,
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT takes floats too
            lora_dropout=self.dropout,
            target_modules=targets,
            fan_in_fan_out=self.fan_in_fan_out,
        )

    def resolved(self, model: PreTrainedModel) -> "LoraSpec":
        """This spec with PEFT's defaults for the model's architecture filled in.

        Raises:
            AdapterError: as `find_targets`.
        """
        return adapter_layout(model, self).spec


@dataclass(frozen=True)
class AdapterLayout:
    """The tensors of an adapter on one base model.

    Attributes:
        spec: the settings, `resolved` for the base model.
        targets: the modules that have an A and a B, in the order of their names.
        note: what a user should know of targets that were not set; None where there is nothing.
    """

    spec: LoraSpec
    targets: tuple[Target, ...]
    note: str | None = None

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """PEFT's tensor names with their shapes, A and B module by module."""
        pairs = [target.shapes(self.spec.rank) for target in self.targets]
        return {name: shape for pair in pairs for name, shape in pair.items()}


# A base model is frozen, so that its layouts are too; they are dropped with it. Finding targets
# takes 100 ms on a model of 7 billion parameters, and every bank needs them.
_LAYOUTS: WeakKeyDictionary[PreTrainedModel, dict[LoraSpec, AdapterLayout]] = WeakKeyDictionary()


def adapter_layout(model: PreTrainedModel, spec: LoraSpec) -> AdapterLayout:
    """Where adapters attach to a base model; PEFT is asked once for each model and spec.

    Raises:
        AdapterError: as `find_targets`.
    """
    layouts = _LAYOUTS.setdefault(model, {})
    if spec not in layouts:
        config = spec.peft_config()
        found = find_targets(model, config)  # PEFT fills in `config`
        targets, note = spec.targets, None
        if targets is None:
            targets = _as_targets(config.target_modules)
            note = default_note(model, targets)
        resolved = replace(spec, targets=targets, fan_in_fan_out=config.fan_in_fan_out)
        layouts[spec] = layouts[resolved] = AdapterLayout(resolved, found, note)
    return layouts[spec]


def initial_weights(
    model: PreTrainedModel, spec: LoraSpec, generator: torch.Generator
) -> dict[str, FloatArray]:
    """A new adapter as PEFT begins it: A uniform in +-1/sqrt(in_features), B zero.

    Drawn module by module in the order of their names.
    """
    weights: dict[str, FloatArray] = {}
    for target in adapter_layout(model, spec).targets:
        (name_a, shape_a), (name_b, shape_b) = target.shapes(spec.rank).items()
        draws = nn.init.kaiming_uniform_(torch.empty(shape_a), a=5**0.5, generator=generator)
        weights[name_a] = draws.numpy()
        weights[name_b] = np.zeros(shape_b, np.float32)
    return weights


def check_weights(weights: AdapterWeights, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that are not float32 arrays of exactly these names and shapes.

    Their numbers are checked where they come from outside: `read_adapter`, `compression.decode`.

    Raises:
        AdapterError: names the first tensor that does not fit.
    """
    for name in sorted(shapes.keys() ^ weights.keys()):
        problem = "is missing" if name in shapes else "is unknown to this base model and spec"
        raise AdapterError(f"adapter tensor {name!r} {problem}; use an adapter made for them")
    for name, shape in shapes.items():
        array = weights[name]
        if array.dtype != np.float32 or array.shape != shape:
            raise AdapterError(
                f"adapter tensor {name!r} is {array.dtype} of shape {array.shape}; "
                f"this base model and spec need float32 of shape {shape}"
            )


def write_adapter(folder: Path, weights: AdapterWeights, spec: LoraSpec, base_name: str) -> None:
    """Write an adapter as a PEFT folder, whole or not at all, replacing one that is there.

    Args:
        folder: the folder to make; missing parents are made too.
        weights: the LoRA tensors, all that is saved.
        spec: best `resolved`, so that the folder does not depend on PEFT's defaults.
        base_name: what to load the base model from; for the reader's information.
    """
    config = spec.peft_config(base_name).to_dict()
    # PEFT keeps names in sets, whose order differs from process to process.
    plain = {key: sorted(v) if isinstance(v, set) else v for key, v in sorted(config.items())}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replace_folder(folder) as temporary:
        write_json(temporary / CONFIG_FILE, plain)
        write_tensors(temporary / WEIGHTS_FILE, weights, {"format": "pt"})


def read_adapter(folder: Path) -> tuple[dict[str, FloatArray], LoraSpec]:
    """Read a PEFT folder written by `write_adapter` or by PEFT.

    Returns:
        The weights in float32, and their spec. Whether they fit a base model is for
        `AdapterBank.load` to check.

    Raises:
        AdapterError: a file is missing or damaged, holds NaN or infinity, or the adapter is of a
            kind other than plain LoRA.
    """
    spec = _read_spec(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: missing or damaged ({error}); restore the folder") from error
    weights: dict[str, FloatArray] = {}
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor, spec.rank)
        weights[name] = tensor.float().numpy()
    return weights, spec


def _check_tensor(path: Path, name: str, tensor: torch.Tensor, rank: int) -> None:
    """Refuse a tensor that is not a finite LoRA matrix of the rank."""
    if not (name.startswith(PREFIX) and name.endswith(SUFFIXES)):
        raise AdapterError(f"{path}: {name!r} is not a LoRA tensor; save the adapter without it")
    axis = SUFFIXES.index("." + ".".join(name.split(".")[-2:]))
    if tensor.dim() != 2 or tensor.shape[axis] != rank or tensor.dtype not in FLOATS:
        raise AdapterError(
            f"{path}: {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, not a float "
            f"matrix of rank {rank}; save the adapter anew"
        )
    if not tensor.isfinite().all():
        raise AdapterError(f"{path}: {name!r} holds NaN or infinity; discard the adapter")


def _read_spec(path: Path) -> LoraSpec:
    """The spec in an adapter_config.json that asks for nothing but plain LoRA."""
    try:
        config = parse_json(path.read_bytes())
        spec = LoraSpec(
            rank=int(config["r"]),
            alpha=config["lora_alpha"],
            dropout=float(config["lora_dropout"]),
            targets=_as_targets(config["target_modules"]),
            fan_in_fan_out=bool(config.get("fan_in_fan_out", False)),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, AdapterError) as error:
        raise AdapterError(f"{path}: unusable ({error!r}); restore the folder") from error
    _refuse_variants(path, config, spec)
    return spec


# Keys of adapter_config.json that do not change what its tensors compute, or are read elsewhere.
_INFORMATION = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
}


def _refuse_variants(path: Path, config: Mapping[str, Any], spec: LoraSpec) -> None:
    """Refuse DoRA, patterns of ranks, trained biases and whatever else is not plain LoRA."""
    plain = spec.peft_config().to_dict()
    for key in sorted(config.keys() - _INFORMATION):
        if config[key] != plain.get(key) and config[key]:
            raise AdapterError(
                f"{path}: {key} = {config[key]!r} is not supported; train a plain LoRA adapter"
            )


def _as_targets(value: Any) -> tuple[str, ...] | str | None:
    """PEFT's `target_modules`, which may be a list or a set of names, as `LoraSpec.targets`."""
    if value is None or isinstance(value, str):
        return value
    return tuple(sorted(map(str, value)))
