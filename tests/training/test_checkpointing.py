"""Training with activations that are computed again, against training that keeps them."""

from collections.abc import Callable
from threading import Thread

import numpy as np
import pytest
import torch
from support.adapters import frozen, random_weights
from support.tiny_models import KINDS, VOCABULARY
from torch import Tensor, nn

from fedrouter.adapters.bank import AdapterBank
from fedrouter.adapters.lora import LoraSpec
from fedrouter.errors import ConfigError
from fedrouter.model import memory
from fedrouter.model.base_model import BaseModel
from fedrouter.model.prompt_format import Example
from fedrouter.training.checkpointing import checkpointed, uses_checkpointing
from fedrouter.training.trainer import TrainJob, train

SPEC = LoraSpec(rank=4, alpha=8, dropout=0.3)


def jobs(base: BaseModel) -> list[TrainJob]:
    draws = np.random.default_rng(0)
    examples = [Example(tuple(draws.integers(3, 60, 6 + i).tolist()), 3 + i // 2) for i in range(9)]
    return [
        TrainJob(random_weights(base.model, SPEC, k), examples[k:], 3, 4, 5e-3, 1.0, seed=k)
        for k in range(3)
    ]


def test_results_are_the_same_bit_for_bit(tiny_base: BaseModel) -> None:
    kept = list(train(tiny_base, SPEC, jobs(tiny_base), 3))
    again = list(train(tiny_base, SPEC, jobs(tiny_base), 3, checkpointing=True))
    for one, other in zip(kept, again, strict=True):
        assert one.loss == other.loss
        for name, array in one.weights.items():
            np.testing.assert_array_equal(array, other.weights[name])


class SavedBytes:
    """Counts the bytes that forward passes keep for the backward pass, each tensor once."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def __enter__(self) -> "SavedBytes":
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


def gradients(
    model: nn.Module, bank: AdapterBank, backward: Callable[[Tensor], None]
) -> list[Tensor]:
    tokens = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 9, 9])
    with bank.active(torch.tensor([0, 1, 0]), None, lengths, [10, 2000, 30000]):
        loss = model(input_ids=tokens, use_cache=False).logits.square().mean()
    backward(loss)
    found = [
        parameter.grad.clone() for parameter in bank.parameters() if parameter.grad is not None
    ]
    for parameter in bank.parameters():
        parameter.grad = None
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threaded", [False, True])  # on a GPU the backward pass has its own thread
def test_gradients_are_the_same_for_every_architecture(kind: str, threaded: bool) -> None:
    def in_thread(loss: Tensor) -> None:
        thread = Thread(target=loss.backward)
        thread.start()
        thread.join()

    model = frozen(kind)
    with AdapterBank(model, SPEC, size=2) as bank:
        for slot in range(2):
            bank.load(slot, random_weights(model, SPEC, slot))
        kept = gradients(model, bank, Tensor.backward)
        with checkpointed(model, bank):
            again = gradients(model, bank, in_thread if threaded else Tensor.backward)
        after = gradients(model, bank, Tensor.backward)
    assert len(kept) == len(bank.parameters())
    for one, other, last in zip(kept, again, after, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, last)
        assert one.abs().max() > 0


def test_less_is_kept_for_the_backward_pass() -> None:
    model = frozen("llama")

    def kept_bytes(bank: AdapterBank) -> int:
        with SavedBytes() as saved:
            gradients(model, bank, lambda _: None)
        return sum(saved.sizes.values())

    with AdapterBank(model, SPEC, size=2) as bank:
        full = kept_bytes(bank)
        with checkpointed(model, bank):
            assert kept_bytes(bank) < full / 3


def test_a_model_without_such_layers_is_refused_in_one_line() -> None:
    model = frozen("llama")
    with AdapterBank(model, SPEC, size=1) as bank:
        model.model.layers = nn.ModuleList()
        with pytest.raises(ConfigError, match="does not support"), checkpointed(model, bank):
            pass


def test_auto_computes_again_where_a_row_is_too_large(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not uses_checkpointing(tiny_base, "auto")
    assert uses_checkpointing(tiny_base, True)
    monkeypatch.setattr(memory, "PASS_BYTES", 2**18)
    assert uses_checkpointing(tiny_base, "auto")
    assert not uses_checkpointing(tiny_base, False)
