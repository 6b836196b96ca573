"""The frozen base model's matrix products against torch's own."""

import copy

import pytest
import torch
from torch import nn

from fedrouter.model.onednn import FEW_ROWS, FrozenLinear, use_onednn


def frozen(rows_in: int = 12, rows_out: int = 7, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    """A frozen layer, and the same as torch has it."""
    torch.manual_seed(0)
    plain = nn.Linear(rows_in, rows_out, bias=bias).requires_grad_(False)
    fast = copy.deepcopy(plain)
    use_onednn(fast)
    return fast, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(FEW_ROWS, 12), (4, FEW_ROWS, 12), (1, 12), (0, 12), (12,)])
def test_output_and_gradient_are_those_of_a_linear_layer(
    shape: tuple[int, ...], bias: bool
) -> None:
    fast, plain = frozen(bias=bias)
    assert type(fast) is FrozenLinear
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = fast(ours), plain(theirs)
    torch.testing.assert_close(a, b)
    upstream = torch.randn(a.shape, generator=torch.Generator().manual_seed(2))
    a.backward(upstream)
    b.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_inputs_and_gradients_may_be_laid_out_in_any_way() -> None:
    fast, plain = frozen()
    x = torch.randn(12, 40, generator=torch.Generator().manual_seed(1)).T
    torch.testing.assert_close(fast(x), plain(x))
    ours, theirs = x.detach().requires_grad_(), x.detach().clone().requires_grad_()
    fast(ours).sum().backward()  # its gradient is one number, expanded
    plain(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_weight_gets_no_gradient_and_the_state_dict_stays() -> None:
    fast, plain = frozen()
    fast(torch.randn(FEW_ROWS, 12, requires_grad=True)).sum().backward()
    assert fast.weight.grad is None
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(copy.deepcopy(fast), FrozenLinear)


def test_what_is_not_frozen_float32_on_a_cpu_is_left_alone() -> None:
    class Special(nn.Linear):
        pass

    learns = nn.Linear(4, 4)
    half = nn.Linear(4, 4).bfloat16().requires_grad_(False)
    special = Special(4, 4).requires_grad_(False)
    use_onednn(nn.ModuleList([learns, half, special]))
    assert [type(learns), type(half), type(special)] == [nn.Linear, nn.Linear, Special]


def test_inputs_of_another_dtype_are_refused_as_torch_refuses_them() -> None:
    fast, plain = frozen()
    x = torch.randn(FEW_ROWS, 12, dtype=torch.float64)
    for layer in (fast, plain):
        with pytest.raises(RuntimeError, match="dtype"):
            layer(x)
