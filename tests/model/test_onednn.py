"""The frozen base model's matrix products against torch's own."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from fedrouter.model import onednn
from fedrouter.model.onednn import (
    FEW_ROWS,
    FEWEST_TO_CONVERT,
    ConvertedLinear,
    FrozenLinear,
    has_instructions,
    use_onednn,
)

HALVES = [torch.bfloat16, torch.float16]


def frozen(
    rows_in: int = 12, rows_out: int = 7, bias: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, nn.Module]:
    """A frozen layer, and the same as torch has it."""
    torch.manual_seed(0)
    plain = nn.Linear(rows_in, rows_out, bias=bias, dtype=dtype).requires_grad_(False)
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


def test_what_is_not_frozen_or_of_another_dtype_is_left_alone() -> None:
    class Special(nn.Linear):
        pass

    learns = nn.Linear(4, 4)
    double = nn.Linear(4, 4).double().requires_grad_(False)
    special = Special(4, 4).requires_grad_(False)
    use_onednn(nn.ModuleList([learns, double, special]))
    assert [type(learns), type(double), type(special)] == [nn.Linear, nn.Linear, Special]


def test_inputs_of_another_dtype_are_refused_as_torch_refuses_them() -> None:
    fast, plain = frozen()
    x = torch.randn(FEW_ROWS, 12, dtype=torch.float64)
    for layer in (fast, plain):
        with pytest.raises(RuntimeError, match="dtype"):
            layer(x)


@pytest.fixture
def no_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without instructions for 16 bits."""
    monkeypatch.setattr(onednn, "has_instructions", lambda dtype: dtype == torch.float32)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_processor_with_instructions_multiplies_in_16_bits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "has_instructions", lambda dtype: True)
    assert type(frozen(dtype=dtype)[0]) is nn.Linear


def test_other_dtypes_need_no_instructions_of_their_own() -> None:
    assert has_instructions(torch.float32)
    assert has_instructions(torch.float64)


@pytest.mark.usefixtures("no_instructions")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("block", [1, 30, onednn.BLOCK])  # one row, two of seven, all
def test_16_bits_are_multiplied_in_float32_and_rounded_once(
    dtype: torch.dtype, bias: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "BLOCK", block)
    fast, plain = frozen(bias=bias, dtype=dtype)
    assert type(fast) is ConvertedLinear
    x = torch.randn(2, FEWEST_TO_CONVERT, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    a, b = fast(ours), plain.float()(wide)
    assert a.dtype == dtype
    torch.testing.assert_close(a, b.to(dtype))
    upstream = torch.randn(a.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    a.backward(upstream)
    b.backward(upstream.float())
    torch.testing.assert_close(ours.grad, wide.grad.to(dtype))


@pytest.mark.usefixtures("no_instructions")
@pytest.mark.parametrize("shape", [(1, 12), (0, 12), (12,)])
def test_few_rows_in_16_bits_are_left_to_torch(shape: tuple[int, ...]) -> None:
    fast, plain = frozen(dtype=torch.bfloat16)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(fast(x), plain(x))


MANY_SHAPES = """
import torch
from torch import nn
from fedrouter.model.memory import release_memory, resident_bytes
from fedrouter.model.onednn import use_onednn

layer = nn.Sequential(nn.Linear(256, 704, bias=False)).requires_grad_(False)
use_onednn(layer)
with torch.no_grad():
    for rows in range(100, 400):
        layer(torch.zeros(rows, 256))
        if rows == 150:
            release_memory()
            before = resident_bytes()
release_memory()
print((resident_bytes() - before) // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory")
def test_products_of_many_shapes_do_not_fill_the_memory() -> None:
    """250 more kernels would take 60 MiB and more."""
    script = [sys.executable, "-c", MANY_SHAPES]
    grown = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    assert int(grown) < 30
