"""Cross-entropy in chunks against torch's own."""

from functools import partial
from math import log

import pytest
import torch
from support.adapters import frozen
from support.tiny_models import KINDS, VOCABULARY
from torch import Tensor, nn

from fedrouter.model import cross_entropy as module
from fedrouter.model.cross_entropy import cross_entropy


def both(logits: Tensor, targets: Tensor, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Losses and gradients of the weighted sum: ours, then torch's in float64."""
    found = []
    for ours in (True, False):
        leaf = logits.clone().requires_grad_()
        # `* 1`: the backward pass overwrites its input, which must not be a leaf's own memory.
        losses = (
            cross_entropy(leaf * 1, targets)
            if ours
            else nn.functional.cross_entropy(leaf.double(), targets, reduction="none")
        )
        (losses * weights).sum().backward()
        found.append((losses.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("chunk", [1, 3 * 50, module.CHUNK])  # one position, three of eight, all
def test_losses_and_gradients_are_torchs(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    draws = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(8, 50, generator=draws)  # large enough to overflow a plain exp
    targets = torch.randint(0, 50, (8,), generator=draws)
    weights = torch.randn(8, generator=draws)
    (ours, our_grad), (theirs, their_grad) = both(logits, targets, weights)
    torch.testing.assert_close(ours, theirs.float())
    torch.testing.assert_close(our_grad, their_grad)


def test_logits_of_16_bits_give_losses_in_float32() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 50, generator=draws).bfloat16()
    targets = torch.randint(0, 50, (8,), generator=draws)
    (ours, our_grad), (theirs, their_grad) = both(logits, targets, torch.ones(8))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs.float())
    torch.testing.assert_close(our_grad, their_grad, rtol=2**-7, atol=2**-9)


def test_by_hand() -> None:
    logits = torch.tensor([[0.0, log(3.0)], [0.0, 0.0]])
    losses = cross_entropy(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(losses, torch.tensor([log(4 / 3), log(2)]))
    assert cross_entropy(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)  # gemma2 caps its logits
def test_gradients_of_a_model_are_torchs(kind: str) -> None:
    model = frozen(kind)
    tokens = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    found = []
    for loss in (cross_entropy, partial(nn.functional.cross_entropy, reduction="none")):
        inputs = model.get_input_embeddings()(tokens).detach().requires_grad_()
        logits = model(inputs_embeds=inputs, use_cache=False).logits
        loss(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).sum().backward()
        found.append(inputs.grad)
    torch.testing.assert_close(*found)


def test_the_gradient_takes_the_logits_place() -> None:
    logits = torch.randn(4, 9, requires_grad=True) * 1
    logits.retain_grad()
    seen: list[int] = []
    logits.register_hook(lambda gradient: seen.append(gradient.data_ptr()))
    cross_entropy(logits, torch.zeros(4, dtype=torch.int64)).sum().backward()
    assert seen == [logits.data_ptr()]


def test_logits_that_their_own_operation_needs_are_not_overwritten_unseen() -> None:
    logits = torch.randn(4, 9, requires_grad=True).tanh()  # tanh's gradient is computed from them
    losses = cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()
