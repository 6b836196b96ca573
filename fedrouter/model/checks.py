"""What a loaded base model is tried for before it is used."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedrouter.errors import ModelError
from fedrouter.model.quantization import is_quantized

PADDING = 3  # tokens put before the sample of `masks_padding`


def check_finite(values: Tensor, what: str, dtype: torch.dtype) -> None:
    """Refuse NaN and infinity.

    Args:
        values: what was computed or loaded.
        what: what to call it, such as "its logits".
        dtype: of the base model.

    Raises:
        ModelError: `values` are not all finite.
    """
    if not values.isfinite().all():
        name = str(dtype).removeprefix("torch.")
        remedy = (
            "its weights are damaged: put back the files that it was saved with"
            if dtype == torch.float32
            else "use model.dtype = 'float32'"
            if dtype == torch.bfloat16
            else "use model.dtype = 'bfloat16' or 'float32'"
        )
        raise ModelError(f"the base model gives NaN or infinity in {name} ({what}); {remedy}")


def check_complete(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a model some of whose weights transformers had to draw at random.

    Args:
        name: as in `model.name`.
        info: transformers' report of loading it.

    Raises:
        ModelError: names the first weight that is missing or of another shape.
    """
    for key, stored, expected in sorted(info["mismatched_keys"]):
        raise ModelError(
            f"model.name = {name!r}: its weight {key!r} has the shape {tuple(stored)}, but its "
            f"config.json means {tuple(expected)}; put back the files that it was saved with"
        )
    if info["missing_keys"]:
        raise ModelError(
            f"model.name = {name!r} lacks {len(info['missing_keys'])} of its weights, first "
            f"{min(info['missing_keys'])!r}; put back the files that it was saved with"
        )


def check_weights(model: PreTrainedModel) -> None:
    """Refuse a model with a weight that is NaN, or infinite in its dtype.

    Raises:
        ModelError: names the first such weight.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.isnan().any():
            raise ModelError(
                f"the base model's weight {name!r} holds NaN; put back the files that it was "
                "saved with"
            )
        if weight.is_floating_point():
            check_finite(weight, f"in its weight {name!r}", weight.dtype)


@torch.no_grad()
def masks_padding(model: PreTrainedModel, text: Sequence[int], pads: tuple[int, int]) -> bool:
    """Whether the attention mask keeps padding before a text from changing what follows it.

    Recurrent models such as RWKV ignore the mask. The same text is put after two kinds of padding;
    where the mask is heeded, the logits after it are the same.

    Args:
        model: the base model.
        text: a few token ids.
        pads: two tokens to pad with that differ.

    Raises:
        ModelError: the logits are not finite.
    """
    tokens = torch.tensor([[pad] * PADDING + list(text) for pad in pads], device=model.device)
    mask = torch.ones_like(tokens)
    mask[:, :PADDING] = 0
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, -1].float()
    check_finite(logits, "in its logits", model.dtype)
    one, other = logits
    return bool((one - other).abs().max() <= _tolerance(model) * one.std())


@torch.no_grad()
def check_causal(model: PreTrainedModel, text: Sequence[int], other: int) -> None:
    """Refuse a model that sees later tokens, such as BERT: it would read responses off its input.

    Args:
        model: the base model.
        text: a few token ids.
        other: a token that is not the last one of them.

    Raises:
        ModelError: the logits before the last token depend on it.
    """
    tokens = torch.tensor([list(text), [*text[:-1], other]], device=model.device)
    one, changed = model(input_ids=tokens, use_cache=False).logits[:, -2].float()
    if (one - changed).abs().max() > _tolerance(model) * one.std():
        raise ModelError(
            f"the base model is no causal language model: its {model.config.model_type} layers see "
            "later tokens; use another, or set is_decoder to true in its config.json if it was "
            "trained to write"
        )


def _tolerance(model: PreTrainedModel) -> float:
    """How far equal logits may differ, as a fraction of their standard deviation."""
    return 1e-3 if model.dtype == torch.float32 and not is_quantized(model) else 5e-2
