"""A digest by which base models are told apart."""

import hashlib

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedrouter.model.quantization import may_be_quantized


def fingerprint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str = "",
    *,
    unquantized: bool = False,
) -> str:
    """Hex digest that tells base models apart, whatever dtype or device they were loaded in.

    Args:
        model: the base model.
        tokenizer: its tokenizer.
        chat_template: where prompts are written with it.
        unquantized: take only the weights that quantization leaves as they are, so that a model and
            its quantized copies have the same digest.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if unquantized and may_be_quantized(model, parameter):
            continue
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        values = parameter.detach()
        if values.is_floating_point():
            values = values.to(torch.bfloat16).view(torch.int16)
        digest.update(values.cpu().contiguous().numpy().tobytes())
    for token, index in sorted(tokenizer.get_vocab().items()):
        digest.update(f"{token}\x1f{index}\x1e".encode())
    digest.update(chat_template.encode())
    return digest.hexdigest()[:32]
