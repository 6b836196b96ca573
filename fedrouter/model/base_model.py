"""The frozen base model: loaded once per process; it embeds, scores and generates.

The base model never changes. Adapters act on it from outside (see `bank.py`): whoever calls
`response_logits` or `generate` decides which adapters are active.
"""

import hashlib
import sys
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from fedrouter.config import ModelConfig
from fedrouter.data.rows import Row
from fedrouter.errors import ConfigError, ModelError
from fedrouter.model.attention import use_float32_attention
from fedrouter.model.batching import fixed_batches, length_batches, pad
from fedrouter.model.checks import check_causal, check_finite, check_weights, masks_padding
from fedrouter.model.embedding import PAPER_EMBEDDING, EmbeddingSpec, pool
from fedrouter.model.fingerprint import fingerprint
from fedrouter.model.hidden_states import HiddenStates
from fedrouter.model.loading import load_pretrained, resolve_device
from fedrouter.model.memory import release_memory, scoring_tokens
from fedrouter.model.onednn import FEW_ROWS, use_onednn
from fedrouter.model.prompt_format import PromptFormat
from fedrouter.types import FloatArray

# Shapes of the batches in which a CPU embeds texts with a model of less than SMALL parameters.
FIXED_ROWS, FIXED_STEP, SMALL = 8, 8, 30_000_000


class BaseModel:
    """A frozen causal language model with its tokenizer and prompt format.

    Attributes:
        model: the transformers model, in eval mode, no parameter requiring a gradient.
        prompts: turns instructions and responses into token ids.
        name: what it was loaded from.
        fingerprint: hex digest of the weights (rounded to bfloat16, so that it is the same
            whether they were loaded in float32 or in bfloat16), of the vocabulary, and of the chat
            template where prompts are written with it.
        positions: tokens that a sequence may have at most.
        masks_padding: whether prompts can be generated from in batches.
        load_seconds: time that loading took.
        note: what a user should know of where it came from; None where there is nothing.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ModelConfig
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        use_onednn(model)
        use_float32_attention(model)
        self.name = config.name
        ends = _end_tokens(model)
        model.generation_config = GenerationConfig()  # greedy means greedy: no penalties of its own
        embeddings = model.get_input_embeddings().get_parameter("weight").shape[0]
        self.prompts = PromptFormat(tokenizer, config.template, config.max_length, ends, embeddings)
        self.positions = _positions(model, config.max_length)
        template = tokenizer.get_chat_template() if self.prompts.template == "chat" else ""
        self.fingerprint = fingerprint(model, tokenizer, template)
        self._fingerprinted = tokenizer, template
        text = [id % embeddings for id in self.prompts.bare_ids("a b")]
        other = (text[-1] + 1) % embeddings
        check_causal(model, [*text, text[0]], other)
        self.masks_padding = masks_padding(model, text, (text[-1], other))
        self.load_seconds = 0.0
        self.note: str | None = None
        self._kept = threading.local()  # the positions that a thread wants logits at
        model.get_output_embeddings().register_forward_pre_hook(_narrowing(self._kept))
        self._hidden = HiddenStates(model)
        self._embeddings: dict[tuple[EmbeddingSpec, bytes], FloatArray] = {}

    @classmethod
    def load(cls, config: ModelConfig, device: str = "auto") -> "BaseModel":
        """Load `config.name`: "nano" (built in), a folder, a GGUF file, or a hub name.

        Args:
            config: the `[model]` section; dtype "auto" is float32 on a CPU, bfloat16 on a GPU.
            device: "auto" (a GPU where there is one), or a torch device.

        Raises:
            ModelError: nothing there can be loaded as a causal language model, or weights,
                tokenizer and dtype do not fit.
        """
        started = time.perf_counter()
        where = torch.device(resolve_device(device))
        model, tokenizer, note = load_pretrained(config, where)
        check_weights(model)
        base = cls(nn.Module.to(model, where), tokenizer, config)
        base.prompts.check_vocabulary()
        base.note = note
        release_memory()  # of conversions to another dtype, in nf4 as much as the model itself
        base.load_seconds = time.perf_counter() - started
        return base

    def compared_fingerprint(self, *, mixed_quantization: bool) -> str:
        """The fingerprint that server and clients of a federation must share; with
        `federation.mixed_quantization` that of the unquantized weights."""
        return self._unquantized_fingerprint if mixed_quantization else self.fingerprint

    @cached_property
    def _unquantized_fingerprint(self) -> str:
        return fingerprint(self.model, *self._fingerprinted, unquantized=True)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    def embed(
        self,
        texts: Sequence[str],
        spec: EmbeddingSpec = PAPER_EMBEDDING,
        progress: Callable[[int], None] = lambda _: None,
        *,
        remember: bool = True,
    ) -> FloatArray:
        """Embeddings of prompts: hidden states of the bare text, pooled over its tokens.

        A text that was embedded before, by this object, costs no forward pass. Call it with no
        adapter active. On a CPU, with one number of threads, the vector of a text depends on the
        text alone, not on the others or their order.

        Args:
            texts: n bare instructions.
            spec: the layer and the pooling; by default those of the paper.
            progress: called with the number of texts done since its last call.
            remember: whether later calls may reuse these embeddings; they stay in memory.

        Returns:
            float32, shape (n, d).
        """
        known: MutableMapping[tuple[EmbeddingSpec, bytes], FloatArray] = self._embeddings
        if not remember:
            known = ChainMap({}, known)
        keys = [(spec, hashlib.sha256(text.encode()).digest()) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        progress(len(texts) - len(missing))
        ids = [self.prompts.bare_ids(text) for text in missing.values()]
        names = list(missing)
        for batch, tokens, mask in self.embedding_batches(ids, filled=remember):
            vectors = self._pooled_hidden(tokens, mask, spec)
            for i, vector in zip(batch, vectors, strict=False):  # the last rows may be filled up
                known[names[i]] = vector
            progress(len(batch))
        if not texts:
            return self.embed(["a"], spec)[:0]
        return np.stack([known[key] for key in keys])

    def embedding_batches(
        self, ids: Sequence[Sequence[int]], *, filled: bool = True
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """The batches in which texts are embedded.

        On a CPU a text's embedding is, bit for bit, the same whatever other texts it is embedded
        with: a resumed run, or a client in a process of its own, embeds others before. Small models
        take batches of a few shapes (1.16 times the time of batches of similar length on nano;
        one text at a time 2.4 times); in larger ones a text at a time costs little. On a GPU, where
        sums are not repeatable in any case, batches are as large as memory allows.

        Args:
            ids: token ids of each text.
            filled: whether the last batches of a CPU are filled up with repetitions. Without them
                a single prompt takes nano a third of the time. On the CPU tried the embeddings
                are the same to the last bit, but nothing that a resumed run repeats relies on it.

        Yields:
            The indices of the texts of a batch, its tokens and its mask, right-padded.
        """
        lengths = [len(one) for one in ids]
        if self.device.type != "cpu":
            batches = ((batch, 0, len(batch)) for batch in length_batches(lengths))
        else:
            rows, step = (FIXED_ROWS, FIXED_STEP) if self._is_small else (1, 1)
            fixed = fixed_batches(lengths, rows, step, self.positions)
            fewest = rows if filled else 1
            batches = (
                # With FEW_ROWS tokens the kernel is that of full batches.
                (batch, length, min(rows, max(fewest, len(batch), -(-FEW_ROWS // length))))
                for batch, length in fixed
            )
        for batch, length, number in batches:
            repeated = [ids[i] for i in islice(cycle(batch), number)]
            yield (
                batch,
                *pad(
                    repeated, self.prompts.pad_id, side="right", device=self.device, length=length
                ),
            )

    @cached_property
    def _is_small(self) -> bool:
        """Whether a text on its own leaves a CPU mostly idle."""
        return bool(self.model.num_parameters() < SMALL)

    @torch.no_grad()
    def _pooled_hidden(self, tokens: Tensor, mask: Tensor, spec: EmbeddingSpec) -> FloatArray:
        hidden = self._hidden.at(self._hidden.number(spec.layer), tokens, mask)
        pooled = pool(hidden, mask, spec.pooling)
        check_finite(pooled, "in embeddings", self.model.dtype)
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
            Shape (m, vocabulary), in row-major order of `keep`, in the base model's dtype.
        """
        with self._keeping(keep):
            output = self.model(input_ids=tokens, attention_mask=mask, use_cache=False)
        logits: Tensor = output.logits[0]
        return logits

    def next_logits(self, tokens: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """The logits of each row's next token.

        Args:
            tokens: int64, shape (rows, length): the tokens since the last call, left-padded.
            mask: int64, shape (rows, all tokens so far): the attention mask.
            cache: keys and values of the tokens before these, to which theirs are added.

        Returns:
            float32, shape (rows, vocabulary).
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        last = torch.zeros_like(tokens, dtype=torch.bool)
        last[:, -1] = True
        with self._keeping(last):
            output = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        logits: Tensor = output.logits[0].float()
        return logits

    @contextmanager
    def _keeping(self, positions: Tensor) -> Iterator[None]:
        """Within the block, this thread's logits are computed at the `positions` that are true."""
        self._kept.positions = positions
        try:
            yield
        finally:
            self._kept.positions = None

    @torch.no_grad()
    def check_logits(self, rows: Sequence[Row]) -> None:
        """Refuse a dtype in which the base model overflows on these rows.

        Raises:
            ModelError: logits are NaN or infinite.
        """
        ids = [example.input_ids for example in self.prompts.examples(rows)]
        for batch in length_batches([len(one) for one in ids], scoring_tokens(self.model)):
            rows_ids = [ids[i] for i in batch]
            tokens, mask = pad(rows_ids, self.prompts.pad_id, side="right", device=self.device)
            logits = self.response_logits(tokens, mask, mask.bool())
            check_finite(logits, "in its logits", self.model.dtype)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Greedy responses to one batch of prompts, with whatever adapters are active.

        Args:
            prompts: token ids as from `self.prompts.prompt_ids`; only one unless `masks_padding`.
            max_new_tokens: length of a response at most.

        Raises:
            ModelError: there are several and padding is not masked. (In transformers 5.23 RWKV
                mixes up the states of several, even of one length.)
        """
        if not self.masks_padding and len(prompts) > 1:
            raise ModelError(
                f"the base model {self.name!r} ignores attention masks; generate from one prompt "
                "at a time"
            )
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


def _narrowing(kept: threading.local) -> Callable[[nn.Module, Any], tuple[Any, ...] | None]:
    """A hook that leaves of the output layer's input the positions that the thread has kept."""

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        keep = getattr(kept, "positions", None)
        return None if keep is None else (args[0][keep].unsqueeze(0), *args[1:])

    return narrow


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
    text_config = model.config.get_text_config()  # of a multimodal model, the language model's
    positions = getattr(text_config, "max_position_embeddings", None) or sys.maxsize
    if max_length > positions:
        raise ConfigError(
            f"model.max_length = {max_length} is more than the {positions} tokens that the base "
            "model can see; set model.max_length to less, to leave room for answers"
        )
    return int(positions)
