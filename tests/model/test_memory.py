"""How many tokens passes may have, in numbers that can be checked by hand."""

import ctypes
import os
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fedrouter.model import memory
from fedrouter.model.memory import (
    GENERATE_TOKENS,
    generation_tokens,
    release_memory,
    scoring_tokens,
    training_tokens,
)


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2**36)


def llama(dtype: torch.dtype, **changes: int) -> PreTrainedModel:
    """A model without memory for its weights."""
    shape = {"hidden_size": 2048, "num_hidden_layers": 16, "vocab_size": 128_256} | changes
    shape |= {"num_attention_heads": 32, "num_key_value_heads": 8}
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**shape)).to(dtype)


def test_passes_of_a_large_model_are_bound_by_their_memory() -> None:
    model = llama(torch.bfloat16)
    assert training_tokens(model, checkpointing=False) == 2**30 // (2 * (16 * 20 * 2048 + 128_256))
    assert training_tokens(model, checkpointing=True) == 2**30 // (2 * ((16 + 20) * 2048 + 128_256))
    assert scoring_tokens(model) == 2**30 // (2 * (20 * 2048 + 128_256))
    assert generation_tokens(model) == 2**30 // (2 * (20 * 2048 + 2 * 16 * 512))


def test_a_small_machine_has_smaller_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2**31)
    model = llama(torch.bfloat16)
    assert training_tokens(model, checkpointing=True) == 2**28 // (2 * ((16 + 20) * 2048 + 128_256))
    assert scoring_tokens(model) == 2**28 // (2 * (20 * 2048 + 128_256))


def test_twice_the_bytes_halve_the_tokens() -> None:
    small, large = (llama(dtype) for dtype in (torch.bfloat16, torch.float32))
    assert training_tokens(small, checkpointing=False) == pytest.approx(
        2 * training_tokens(large, checkpointing=False), abs=1
    )


def test_passes_of_a_small_model_are_bound_by_the_caches() -> None:
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=500))
    assert training_tokens(model, checkpointing=False) == 4096
    assert scoring_tokens(model) == 4096
    assert generation_tokens(model) == GENERATE_TOKENS == 16_384


def test_there_is_at_least_one_token() -> None:
    model = llama(torch.float32, vocab_size=2**29)
    assert training_tokens(model, checkpointing=False) == 1


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    blocks = [torch.ones(2**14) for _ in range(2**11)]  # 128 MiB in blocks that stay in the heap
    last = torch.ones(2**14)  # above them, so that the heap cannot shrink
    del blocks
    before = resident()
    release_memory()
    assert resident() < before - 2**26
    assert last.sum() == 2**14
