"""Attention in float32 for base models in 16 bits, against transformers' plain products."""

import pytest
import torch
from support.adapters import frozen
from support.tiny_models import VOCABULARY

from fedrouter.model.attention import NAME, use_float32_attention


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_states_and_gradients_are_closer_to_float32_than_plain_products(
    kind: str, dtype: torch.dtype
) -> None:
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, VOCABULARY, (3, 40), generator=draws)
    mask = torch.ones_like(tokens)
    mask[0, 30:] = 0

    def run(model: torch.nn.Module, like: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = model.get_input_embeddings()(tokens).detach().to(like).requires_grad_()
        output = model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits
        (output.float().square() * mask.unsqueeze(2)).sum().backward()
        return output.float() * mask.unsqueeze(2), inputs.grad.float()

    exact = run(frozen(kind).to(dtype).float(), torch.float32)
    plain, ours = frozen(kind).to(dtype), frozen(kind).to(dtype)
    plain.set_attn_implementation("eager")
    use_float32_attention(ours)
    assert ours.config._attn_implementation == NAME
    for expected, a, b in zip(exact, run(ours, dtype), run(plain, dtype), strict=True):
        scale = expected.norm()
        assert (a - expected).norm() <= 1.2 * (b - expected).norm() <= 0.1 * scale


def test_a_float32_model_keeps_its_attention() -> None:
    model = frozen("llama")
    before = model.config._attn_implementation
    use_float32_attention(model)
    assert model.config._attn_implementation == before
