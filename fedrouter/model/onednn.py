"""Matrix products of a frozen base model on a CPU, by the fastest kernel at hand.

A frozen weight needs no gradient, so all that is to be written is the forward product and that of
the input's gradient. Two cases differ from torch's own:

- float32: torch multiplies with MKL, which on some processors other than Intel's leaves half of the
  machine unused. oneDNN, which torch has beside it, multiplies the same matrices 2.3 times as fast
  on an AMD EPYC (Zen 5; 64 rows and more, features 256 and 704), and as fast on a Zen 3.
- bfloat16 and float16 on a processor without instructions for them: torch multiplies element by
  element, 8 times as slowly as in float32, and 35 to 65 times in the backward pass (Zen 3, 512
  rows, features 576 and 1,536). The weight is converted to float32 in blocks, and so multiplied.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn

# oneDNN compiles a kernel of 0.2 to 0.5 MiB for each shape of a product, and keeps the last 1,024;
# so does torch's layer above it. Passes of many lengths then take 400 MiB, which in addition keep
# the memory around them from being used again. A pass needs five kernels, its gradients five more.
KERNELS = 32
CACHE_SIZES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
FEW_ROWS = 16  # below it MKL is as fast: oneDNN lays the weight out anew in every call
FEWEST_TO_CONVERT = 4  # rows; below it the conversion takes longer than torch's slow product
BLOCK = 2**20  # elements of a weight that are converted at a time: 4 MiB, which stay in the cache


class FrozenLinear(nn.Linear):
    """A linear layer whose weight is constant, float32 and on a CPU; oneDNN multiplies."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`'s."""
        if input.numel() < FEW_ROWS * self.in_features or input.dtype != torch.float32:
            return super().forward(input)
        product: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product


class ConvertedLinear(nn.Linear):
    """A linear layer whose weight is constant, of 16 bits and on a CPU without instructions for
    them; multiplied in float32, and the result rounded to the weight's dtype."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`'s."""
        few = input.numel() < FEWEST_TO_CONVERT * self.in_features
        if few or input.dtype != self.weight.dtype:
            return super().forward(input)
        product: Tensor = _ConvertedProduct.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
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


class _ConvertedProduct(torch.autograd.Function):
    """x W^T + b in float32, block by block of W's rows, with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        wide, output = x.float(), x.new_empty(*x.shape[:-1], len(weight))
        for rows in _blocks(weight):
            offset = None if bias is None else bias[rows].float()
            output[..., rows] = nn.functional.linear(wide, weight[rows].float(), offset)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        total = sum(
            gradients[0][..., rows].float() @ weight[rows].float() for rows in _blocks(weight)
        )
        return total.to(weight.dtype), None, None


def _blocks(weight: Tensor) -> list[slice]:
    """Rows of a weight in blocks of at most BLOCK elements, but at least one row."""
    step = max(1, BLOCK // weight.shape[1])
    return [slice(start, start + step) for start in range(0, len(weight), step)]


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def use_onednn(model: nn.Module) -> None:
    """Choose the kernels of a frozen model's linear layers, where torch's own are slow. State dict,
    modules and hooks stay as they are.

    The kernels that are kept are limited to KERNELS by environment variables, which are read at the
    first product of the process; those that are set already are left alone.
    """
    for name in CACHE_SIZES:
        os.environ.setdefault(name, str(KERNELS))
    for module in model.modules():
        if type(module) is nn.Linear and _is_frozen_on_cpu(module.weight):
            module.__class__ = _layer_class(module.weight.dtype)


def _is_frozen_on_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and not weight.requires_grad


def _layer_class(dtype: torch.dtype) -> type[nn.Linear]:
    """The layer that multiplies fastest with weights of a dtype on this machine's processor."""
    if dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return FrozenLinear
    return nn.Linear if has_instructions(dtype) else ConvertedLinear


def has_instructions(dtype: torch.dtype) -> bool:
    """Whether torch multiplies matrices of a dtype by the processor's own instructions; true of any
    dtype but bfloat16 and float16."""
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype not in supported or (
        torch.backends.mkldnn.is_available() and bool(supported[dtype]())
    )
