"""Token by token generation for a batch that sequences join and leave between steps.

`transformers.generate` answers one batch from its beginning to its end. A server wants new requests
to join the others at the next token, each row with its own adapters and its own way of sampling:
the rows' keys and values are kept side by side, padded on the left, and rows are added and removed
by slicing and concatenating them. Base models that keep another kind of memory (recurrent layers)
read every sequence anew for each token, which is slow, but right.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.inference.response_text import ResponseText
from fedrouter.inference.sampling import Sampling, TokenLogprob, logprob, sample
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import pad
from fedrouter.routing.types import AdapterMixture


@dataclass(eq=False)
class GeneratedSequence:
    """A response in the making.

    Attributes:
        prompt: the prompt's token ids.
        mixture: the adapters that answer.
        sampling: how tokens are drawn.
        draws: a CPU generator for them.
        text: the response's text so far.
        tokens: the generated token ids, without the one that ends the response.
        logprobs: one for each token, if they are wanted.
        finish_reason: "stop": the model or a stop text ended the response; "length": it reached
            `sampling.max_tokens` or the longest sequence that the base model can see; None: it is
            not finished.
    """

    prompt: Sequence[int]
    mixture: AdapterMixture
    sampling: Sampling
    draws: torch.Generator
    text: ResponseText
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None


def new_sequence(
    base: BaseModel,
    prompt: Sequence[int],
    mixture: AdapterMixture,
    sampling: Sampling,
    seed: int,
) -> GeneratedSequence:
    """A response that has no token yet.

    Args:
        base: the base model.
        prompt: as from `base.prompts.prompt_ids`.
        mixture: the adapters that answer.
        sampling: how tokens are drawn.
        seed: of its draws.
    """
    draws = torch.Generator().manual_seed(seed % 2**63)
    text = ResponseText(base.prompts.decode, sampling.stop)
    return GeneratedSequence(prompt, mixture, sampling, draws, text)


class DecodingBatch:
    """Sequences that are generated together, one token each in every `step`.

    Args:
        model: the base model with the adapters.

    Attributes:
        sequences: the sequences that are not finished.
    """

    def __init__(self, model: MultiAdapterModel) -> None:
        self.sequences: list[GeneratedSequence] = []
        self._model = model
        self._base = model.base
        self._cached = keeps_plain_cache(model.base)
        self._cache: Cache = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.int64, device=self._base.device)

    @torch.inference_mode()
    def add(self, sequences: Sequence[GeneratedSequence]) -> None:
        """Read the prompts of new sequences, draw their first tokens, and let them join."""
        if not sequences:
            return
        logits = self._read(sequences) if self._cached else self._reread(sequences)
        self.sequences += sequences
        self._draw(sequences, logits)
        self._drop_finished()

    @torch.inference_mode()
    def step(self) -> None:
        """Draw the next token of every sequence."""
        if not self.sequences:
            return
        logits = self._read_last() if self._cached else self._reread(self.sequences)
        self._draw(self.sequences, logits)
        self._drop_finished()

    @torch.inference_mode()
    def remove(self, sequences: Collection[GeneratedSequence]) -> None:
        """Drop sequences that nobody wants any more."""
        kept = [i for i, one in enumerate(self.sequences) if one not in sequences]
        if len(kept) < len(self.sequences):
            self.sequences = [self.sequences[i] for i in kept]
            if self._cached:
                self._cache, self._mask = _selected(self._cache, self._mask, kept)

    def _read(self, sequences: Sequence[GeneratedSequence]) -> Tensor:
        """The logits after the prompts of new sequences, whose keys and values join the others'."""
        prompts = [sequence.prompt for sequence in sequences]
        tokens, mask = pad(
            prompts, self._base.prompts.pad_id, side="left", device=self._base.device
        )
        cache: Cache = DynamicCache()
        with self._model.active([sequence.mixture for sequence in sequences]):
            logits = self._base.next_logits(tokens, mask, cache)
        self._cache, self._mask = _joined((self._cache, self._mask), (cache, mask))
        return logits

    def _read_last(self) -> Tensor:
        """The logits after the last token of every sequence."""
        last = [[sequence.tokens[-1]] for sequence in self.sequences]
        tokens = torch.tensor(last, device=self._base.device)
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)
        with self._model.active([sequence.mixture for sequence in self.sequences]):
            return self._base.next_logits(tokens, self._mask, self._cache)

    def _reread(self, sequences: Sequence[GeneratedSequence]) -> Tensor:
        """The logits after whole sequences, each read on its own."""
        logits = []
        for sequence in sequences:
            ids = [*sequence.prompt, *sequence.tokens]
            tokens = torch.tensor([ids], device=self._base.device)
            last = torch.zeros_like(tokens, dtype=torch.bool)
            last[:, -1] = True
            with self._model.active([sequence.mixture]):
                logits.append(self._base.response_logits(tokens, torch.ones_like(tokens), last))
        return torch.cat(logits).float()

    def _draw(self, sequences: Sequence[GeneratedSequence], logits: Tensor) -> None:
        greedy = logits.argmax(dim=1).tolist()
        for row, sequence in enumerate(sequences):
            sampling = sequence.sampling
            if sampling.temperature == 0:
                token = greedy[row]
            else:
                token = sample(logits[row], sampling, sequence.draws)
            if token in self._base.prompts.end_ids:
                sequence.finish_reason = "stop"
                continue
            sequence.tokens.append(token)
            sequence.text.add(token)
            if sampling.logprobs is not None:
                sequence.logprobs.append(logprob(logits[row], token, sampling.logprobs))
            if sequence.text.stopped:
                sequence.finish_reason = "stop"
            elif self._is_full(sequence):
                sequence.finish_reason = "length"

    def _is_full(self, sequence: GeneratedSequence) -> bool:
        generated = len(sequence.tokens)
        longest = len(sequence.prompt) + generated >= self._base.positions
        return longest or generated >= sequence.sampling.max_tokens

    def _drop_finished(self) -> None:
        self.remove({one for one in self.sequences if one.finish_reason is not None})


def keeps_plain_cache(base: BaseModel) -> bool:
    """Whether all that a base model remembers of a sequence is the keys and values of its tokens,
    and their positions can be given."""
    parameters = inspect.signature(base.model.forward).parameters
    if not {"past_key_values", "position_ids"} <= parameters.keys() or not base.masks_padding:
        return False
    layers = DynamicCache(config=base.model.config.get_text_config()).layers
    # The keys and values that lie outside a sliding window are kept too: the mask hides them.
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


_Rows = tuple[Cache, Tensor]  # keys and values of some rows, and their attention mask


def _joined(some: _Rows, others: _Rows) -> _Rows:
    """The rows of both, padded on the left to the longest."""
    if not len(some[1]):
        return others
    length = max(some[1].shape[1], others[1].shape[1])
    both = [(cache, length - mask.shape[1], mask) for cache, mask in (some, others)]
    joined = _mapped(
        some[0],
        lambda index, kind: torch.cat(
            [_padded(getattr(cache.layers[index], kind), more, -2) for cache, more, _ in both]
        ),
    )
    return joined, torch.cat([_padded(mask, more, -1) for _, more, mask in both])


def _selected(cache: Cache, mask: Tensor, rows: Sequence[int]) -> _Rows:
    """Some of the rows, without the columns that are padding in all of them."""
    if not rows:
        return DynamicCache(), mask[:0, :0]
    mask = mask[list(rows)]
    start = int(mask.any(dim=0).nonzero()[0])
    selected = _mapped(
        cache, lambda index, kind: getattr(cache.layers[index], kind)[list(rows), :, start:]
    )
    return selected, mask[:, start:]


def _mapped(cache: Cache, tensor: Callable[[int, str], Tensor]) -> Cache:
    """A cache whose layers have the keys and values that `tensor` gives for each."""
    mapped = DynamicCache()
    for index in range(len(cache.layers)):
        mapped.update(tensor(index, "keys"), tensor(index, "values"), index)
    return mapped


def _padded(tensor: Tensor, more: int, dim: int) -> Tensor:
    """A tensor with `more` zeros before its entries along a dimension."""
    if not more:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = more
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)
