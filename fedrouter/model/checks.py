"""What a loaded base model is tried for before it is used."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedrouter.errors import ModelError

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


def check_complete(name: str, missing: Collection[str]) -> None:
    """Refuse a model some of whose weights transformers had to draw at random.

    Args:
        name: as in `model.name`.
        missing: the names of these weights.

    Raises:
        ModelError: names the first of them.
    """
    if missing:
        raise ModelError(
            f"model.name = {name!r} lacks {len(missing)} of its weights, first {min(missing)!r}; "
            "put back the files that it was saved with"
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
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return bool((one - other).abs().max() <= tolerance * one.std())
