"""The frozen base model: loaded once per process; it embeds, scores and generates.

The base model never changes. Adapters act on it from outside (see `bank.py`): whoever calls
`response_logits` or `generate` decides which adapters are active.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from fedrouter.config import ModelConfig
from fedrouter.config.resolve import BUILTIN_BASE
from fedrouter.errors import ConfigError, ModelError
from fedrouter.model.batching import length_batches, pad
from fedrouter.model.onednn import use_onednn
from fedrouter.model.prompt_format import PromptFormat
from fedrouter.types import FloatArray

Pooling = Literal["mean", "last"]  # how a text's hidden states make one vector
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BaseModel:
    """A frozen causal language model with its tokenizer and prompt format.

    Attributes:
        model: the transformers model, in eval mode, no parameter requiring a gradient.
        prompts: turns instructions and responses into token ids.
        name: what it was loaded from.
        fingerprint: hex digest of the weights (rounded to bfloat16, so that it is the same
            whether they were loaded in float32 or in bfloat16) and of the vocabulary.
        positions: tokens that a sequence may have at most.
        load_seconds: time that loading took.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ModelConfig
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        use_onednn(model)
        self.name = config.name
        ends = _end_tokens(model)
        model.generation_config = GenerationConfig()  # greedy means greedy: no penalties of its own
        self.prompts = PromptFormat(tokenizer, config.template, config.max_length, ends)
        self.positions = _positions(model, config.max_length)
        self.fingerprint = fingerprint(model, tokenizer)
        self.load_seconds = 0.0
        self._embeddings: dict[tuple[Pooling, bytes], FloatArray] = {}

    @classmethod
    def load(cls, config: ModelConfig, device: str = "auto") -> "BaseModel":
        """Load `config.name`: "nano" (built in), a folder, or a hub name.

        Args:
            config: the `[model]` section; dtype "auto" is float32 on a CPU, bfloat16 on a GPU.
            device: "auto" (a GPU where there is one), or a torch device.

        Raises:
            ModelError: nothing there can be loaded as a causal language model.
        """
        started = time.perf_counter()
        where = torch.device(resolve_device(device))
        dtype = DTYPES.get(config.dtype, torch.float32 if where.type == "cpu" else torch.bfloat16)
        source = _source(config.name)
        transformers_logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, attn_implementation=_attention(where, dtype)
            )
        except Exception as error:  # whatever the folder's files, the hub or a library may raise
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise ModelError(
                f"model.name = {config.name!r} cannot be loaded as a causal language model "
                f"({reason}); give 'nano', a folder with config.json, weights and tokenizer, "
                "or a hub name that this machine can reach"
            ) from error
        base = cls(nn.Module.to(model, where), tokenizer, config)
        base.load_seconds = time.perf_counter() - started
        return base

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    def embed(
        self,
        texts: Sequence[str],
        progress: Callable[[int], None] = lambda _: None,
        pooling: Pooling = "mean",
    ) -> FloatArray:
        """Embeddings of prompts: the mean over the tokens of the bare text of the last hidden
        state after the final norm (paper, section on task clustering).

        A text that was embedded before, by this object, costs no forward pass. Call it with no
        adapter active.

        Args:
            texts: n bare instructions.
            progress: called with the number of texts done since its last call.
            pooling: "last": the last token's hidden state in place of the mean (FedDPA).

        Returns:
            float32, shape (n, hidden size).
        """
        keys = [(pooling, hashlib.sha256(text.encode()).digest()) for text in texts]
        missing = {
            key: text for key, text in zip(keys, texts, strict=True) if key not in self._embeddings
        }
        progress(len(texts) - len(missing))
        ids = [self.prompts.bare_ids(text) for text in missing.values()]
        names = list(missing)
        for batch in length_batches([len(one) for one in ids]):
            vectors = self._pooled_hidden([ids[i] for i in batch], pooling)
            for i, vector in zip(batch, vectors, strict=True):
                self._embeddings[names[i]] = vector
            progress(len(batch))
        if not texts:
            return np.zeros((0, self.model.config.hidden_size), np.float32)
        return np.stack([self._embeddings[key] for key in keys])

    @torch.no_grad()
    def _pooled_hidden(self, ids: Sequence[Sequence[int]], pooling: Pooling) -> FloatArray:
        tokens, mask = pad(ids, self.prompts.pad_id, side="right", device=self.device)
        decoder = getattr(self.model, self.model.base_model_prefix)
        hidden = decoder(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        if pooling == "last":
            pooled = hidden[torch.arange(len(ids)), mask.sum(1) - 1].float()
        else:
            weights = mask.unsqueeze(-1).float()
            pooled = (hidden.float() * weights).sum(1) / weights.sum(1)
        vectors: FloatArray = pooled.cpu().numpy()
        return vectors

    def response_logits(self, tokens: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        """Logits at the positions where `keep` is true, and nowhere else.

        The model runs its own forward; only the input of its output layer is narrowed to the kept
        positions, so that scaling or capping of logits (Gemma-2, Granite, Cohere) is the model's
        own. On a vocabulary of real size this saves most of the memory of a training step.

        Args:
            tokens: int64, shape (rows, length), right-padded.
            mask: the attention mask, same shape.
            keep: bool, same shape; m true entries.

        Returns:
            float32, shape (m, vocabulary), in row-major order of `keep`.
        """

        def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0][keep].unsqueeze(0), *args[1:])

        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(narrow)
        try:
            output = self.model(input_ids=tokens, attention_mask=mask, use_cache=False)
        finally:
            hook.remove()
        logits: Tensor = output.logits[0].float()
        return logits

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Greedy responses to one batch of prompts, with whatever adapters are active.

        Args:
            prompts: token ids as from `self.prompts.prompt_ids`.
            max_new_tokens: length of a response at most.
        """
        tokens, mask = pad(prompts, self.prompts.pad_id, side="left", device=self.device)
        settings = GenerationConfig(
            max_new_tokens=max(1, min(max_new_tokens, self.positions - tokens.shape[1])),
            do_sample=False,
            eos_token_id=sorted(self.prompts.end_ids),
            pad_token_id=self.prompts.pad_id,
        )
        output = self.model.generate(
            input_ids=tokens, attention_mask=mask, generation_config=settings
        )
        responses = output[:, tokens.shape[1] :].tolist()
        return [self.prompts.decode(ids) for ids in responses]


def resolve_device(device: str) -> str:
    """The torch device that "auto" stands for on this machine.

    Raises:
        ConfigError: this machine does not have the device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"engine.device = {device!r}: this machine has no such device; use 'auto' or 'cpu'"
        ) from error
    return device


def _attention(device: torch.device, dtype: torch.dtype) -> str | None:
    """The attention kernel to ask for; None leaves it to transformers.

    On a CPU torch's fused kernel is slow in bfloat16: nano trains 8 adapters on 80 tokens 1.25 to
    1.55 times as fast with plain matrix products (in float32 both take the same time).
    """
    return "eager" if device.type == "cpu" and dtype == torch.bfloat16 else None


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex digest that tells base models apart, whatever dtype or device they were loaded in."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        values = parameter.detach()
        if values.is_floating_point():
            values = values.to(torch.bfloat16).view(torch.int16)
        digest.update(values.cpu().contiguous().numpy().tobytes())
    for token, index in sorted(tokenizer.get_vocab().items()):
        digest.update(f"{token}\x1f{index}\x1e".encode())
    return digest.hexdigest()[:32]


def _end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end a response by the model's own generation settings; chat models have
    one for the turn beside one for the text."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def _positions(model: PreTrainedModel, max_length: int) -> int:
    """The longest sequence the model can see.

    Raises:
        ConfigError: prompts may be longer.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    if max_length > positions:
        raise ConfigError(
            f"model.max_length = {max_length} is more than the {positions} tokens that the base "
            "model can see; set model.max_length to less, to leave room for answers"
        )
    return int(positions)


def _source(name: str) -> str:
    """The folder of the built-in base model, or the name as it is."""
    if name == BUILTIN_BASE:
        return str(resources.files("fedrouter") / "assets" / BUILTIN_BASE)
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(
            f"model.name = {name!r} is not a folder; give 'nano', a folder or a hub name"
        )
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
