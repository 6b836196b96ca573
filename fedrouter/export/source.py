"""What is exported: a finished run's adapters, and what is known of its base model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import ResolvedConfig, load_resolved
from fedrouter.config.resolve import BUILTIN_BASE
from fedrouter.errors import ExportError, ModelError
from fedrouter.export.template import chat_template
from fedrouter.inference.run_reader import read_adapters, read_router
from fedrouter.model.chat_template import make_template
from fedrouter.model.fingerprint import fingerprint
from fedrouter.model.source import find_source
from fedrouter.storage.run_folder import RunFolder
from fedrouter.types import AdapterWeights

BUILTIN_FOLDER = "fedrouter-nano"  # where an export has the built-in base model
NO_FACTS: Mapping[str, Any] = {"clients": [], "samples": None, "true_tasks": {}}  # of a task


@dataclass(frozen=True)
class ExportSource:
    """A finished run.

    Attributes:
        run: its folder.
        config: its configuration.
        summary: its `summary.json`.
        spec: what its adapters have in common.
        adapters: task id -> weights.
        base_name: the base model as others load it: a hub name, or `BUILTIN_FOLDER` for the
            built-in one; None where the run only knows a folder of this machine.
    """

    run: RunFolder
    config: ResolvedConfig
    summary: Mapping[str, Any]
    spec: LoraSpec
    adapters: Mapping[str, AdapterWeights]
    base_name: str | None

    @property
    def builtin_base(self) -> bool:
        """Whether the base model is the one that comes with fedrouter."""
        return self.config.model.name == BUILTIN_BASE

    @property
    def base_path(self) -> str:
        """The folder or hub name that this machine loads the base model from."""
        return find_source(self.config.model.name).name

    @property
    def required_base_name(self) -> str:
        """`base_name`.

        Raises:
            ExportError: it is not known.
        """
        if self.base_name is None:
            raise ExportError(
                f"the base model {self.config.model.name!r} is a folder of this machine; say what "
                "others load it from: --base-name OWNER/NAME"
            )
        return self.base_name

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer, with the exported chat template.

        Raises:
            ModelError: it cannot be loaded.
        """
        tokenizer: PreTrainedTokenizerBase = self._load(AutoTokenizer)
        tokenizer.chat_template = chat_template(self.config.model.template, tokenizer)
        return tokenizer

    @cached_property
    def base_config(self) -> PreTrainedConfig:
        """The base model's configuration.

        Raises:
            ModelError: it cannot be loaded.
        """
        config: PreTrainedConfig = self._load(AutoConfig)
        return config

    def load_base(self, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
        """The base model on the CPU.

        Args:
            dtype: of its weights; "auto": as they are stored.

        Raises:
            ModelError: it cannot be loaded, or is not the one that the run was trained on.
        """
        model: PreTrainedModel = self._load(AutoModelForCausalLM, dtype=dtype)
        own: PreTrainedTokenizerBase = self._load(AutoTokenizer)
        is_chat = make_template(self.config.model.template, own).name == "chat"
        template = own.get_chat_template() if is_chat else ""
        if fingerprint(model, own, template) != self.summary["base_fingerprint"]:
            raise ModelError(
                f"{self.run.path} was trained on another base model than "
                f"{self.config.model.name!r} now is; put back the one it had"
            )
        return model

    def task(self, id: str) -> Mapping[str, Any]:
        """A task's entry in `summary.json`; a method with one adapter has none of them."""
        tasks: list[dict[str, Any]] = self.summary["tasks"]
        return next((task for task in tasks if task["id"] == id), {**NO_FACTS, "id": id})

    def _load(self, kind: Any, **settings: Any) -> Any:
        transformers_logging.disable_progress_bar()
        try:
            return kind.from_pretrained(self.base_path, trust_remote_code=False, **settings)
        except Exception as error:  # whatever the folder's files, the hub or a library may raise
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise ModelError(
                f"the base model {self.config.model.name!r} cannot be loaded ({reason}); "
                "put back the one that the run had"
            ) from error


def read_source(folder: Path, base_name: str | None) -> ExportSource:
    """Read a finished run.

    Args:
        folder: the run folder.
        base_name: what others load the base model from; None: as the run's configuration says.

    Raises:
        RunError: the folder is not a finished run, or its adapters stay with the clients.
        AdapterError: a task's adapter is damaged.
    """
    run = RunFolder.open(folder)
    summary = run.read_summary()
    if summary.get("privacy"):  # which holds for adapters, not for counts of training rows
        summary["tasks"] = [{**NO_FACTS, "id": task["id"]} for task in summary["tasks"]]
    config = load_resolved(run.path / "config.toml")
    spec, adapters = read_adapters(run, read_router(run, config))
    name = base_name or _public_name(config.model.name)
    return ExportSource(run, config, summary, spec, adapters, name)


def _public_name(name: str) -> str | None:
    """The name in the configuration as others can load it; None for a folder of this machine.

    Run folders hold full paths of folders, so that what is not a path is a name on the hub.
    """
    if name == BUILTIN_BASE:
        return BUILTIN_FOLDER
    return None if name.startswith((".", "~")) or Path(name).is_absolute() else name
