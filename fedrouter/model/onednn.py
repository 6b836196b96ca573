"""Matrix products of a frozen base model, by the fastest kernel at hand.

On a CPU torch multiplies float32 matrices with MKL, which on processors other than Intel's leaves
half of the machine unused; oneDNN, which torch has beside it, multiplies the same matrices 2.3
times as fast on an AMD EPYC (Zen 5; 64 rows and more, features 256 and 704). A frozen weight needs
no gradient, so all that is to be written is the forward product and that of the input's gradient.
"""

from typing import Any

import torch
from torch import Tensor, nn

FEW_ROWS = 16  # below it MKL is as fast: oneDNN lays the weight out anew in every call


class FrozenLinear(nn.Linear):
    """A linear layer whose weight is constant, float32 and on a CPU; oneDNN multiplies."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`'s."""
        if input.numel() < FEW_ROWS * self.in_features or input.dtype != torch.float32:
            return super().forward(input)
        product: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """x W^T + b, with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn(gradients[0], weight.T, None), None, None


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def use_onednn(model: nn.Module) -> None:
    """Let oneDNN multiply in the linear layers of a frozen model, where that is of use: float32 on
    a CPU whose torch has it. State dict, modules and hooks stay as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        if type(module) is nn.Linear and _fits(module.weight):
            module.__class__ = FrozenLinear


def _fits(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.requires_grad
    )
