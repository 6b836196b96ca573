"""Adapters on architectures of every kind, judged by PEFT."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from support.adapters import random_weights
from support.tiny_models import random_architecture
from transformers import PreTrainedModel

from fedrouter.adapters.bank import AdapterBank
from fedrouter.adapters.lora import LoraSpec, adapter_layout, write_adapter
from fedrouter.errors import AdapterError

QKVO = ("k_proj", "o_proj", "q_proj", "v_proj")
EXPECTED = {
    "qwen3_moe": QKVO,
    "gpt_oss": QKVO,
    "glm4": QKVO,
    "granite": QKVO,
    "falcon_h1": QKVO,  # attention beside Mamba
    "llama4_text": QKVO,
    "phi3": ("o_proj", "qkv_proj"),
    "lfm2": ("k_proj", "out_proj", "q_proj", "v_proj"),
    "ctrl": ("Wk", "Wq", "Wv", "dense"),
    "jetmoe": ("kv_proj",),
    "mamba": ("in_proj",),
    "mamba2": ("in_proj",),
    "llava": tuple(
        f"model.language_model.layers.{i}.self_attn.{name}" for i in (0, 1) for name in QKVO
    ),
    "openai-gpt": (  # its feed-forward layers have a c_proj too
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
        "transformer.h.1.attn.c_attn",
        "transformer.h.1.attn.c_proj",
    ),
}
PEFT_HAS = {"mixtral": ("q_proj", "v_proj"), "nemotron_h": QKVO, "rwkv": None, "gemma3_text": None}


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False).logits


@pytest.mark.parametrize("kind", [*EXPECTED, *PEFT_HAS])
def test_defaults_work_and_peft_computes_the_same(kind: str, tmp_path: Path) -> None:
    model = random_architecture(kind)
    layout = adapter_layout(model, LoraSpec())
    spec = layout.spec
    expected = EXPECTED.get(kind) or PEFT_HAS[kind] or spec.targets
    assert spec.targets == expected
    assert (layout.note is None) == (kind in PEFT_HAS)
    if kind in EXPECTED:
        short = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in expected}))
        assert f"the architecture '{kind}'; adapters attach to {short} (" in str(layout.note)
    weights, before = random_weights(model, spec, seed=1), logits(model)
    with AdapterBank(model, spec, 1) as bank:
        bank.load(0, weights)
        with bank.active(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)):
            ours = logits(model)
    assert not torch.allclose(ours, before, atol=1e-3)
    write_adapter(tmp_path / "adapter", weights, spec, "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = logits(PeftModel.from_pretrained(model, tmp_path / "adapter"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma3", "llava", "qwen2_vl"])
def test_only_the_text_part_of_a_multimodal_model_is_adapted(kind: str) -> None:
    layout = adapter_layout(random_architecture(kind), LoraSpec())
    assert len(layout.targets) == 2 * 4
    assert all(".language_model.layers." in target.name for target in layout.targets)
    assert "adapters attach to k_proj, o_proj, q_proj, v_proj (" in str(layout.note)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "mamba", "falcon_h1", "llama"])
@pytest.mark.parametrize("targets", ["all-linear", ("nonesuch",), "nonesuch", ("embed_tokens",)])
def test_the_advice_in_a_refusal_works(kind: str, targets: tuple[str, ...] | str) -> None:
    model = random_architecture(kind)
    if (kind, targets) == ("llama", "all-linear"):
        assert len(adapter_layout(model, LoraSpec(targets=targets)).targets) == 2 * 7
        return
    with pytest.raises(AdapterError) as caught:
        adapter_layout(model, LoraSpec(targets=targets))
    assert "\n" not in str(caught.value)
    found = re.search(r"such as adapter\.targets = (\[.*\])$", str(caught.value))
    assert found
    assert adapter_layout(model, LoraSpec(targets=tuple(json.loads(found[1])))).targets


@pytest.mark.parametrize("dropout", [0, 0.05])
def test_fused_experts_are_refused_by_name(dropout: float) -> None:
    spec = LoraSpec(targets="all-linear", dropout=dropout)
    with pytest.raises(AdapterError, match=r"fused weight 'model\.layers\.0\.mlp\.experts\."):
        adapter_layout(random_architecture("mixtral"), spec)


def test_a_name_is_no_pattern_and_the_advice_works() -> None:
    model = random_architecture("llama")
    with pytest.raises(AdapterError) as caught:
        adapter_layout(model, LoraSpec(targets="q_proj"))
    assert str(caught.value) == (
        "adapter.targets = 'q_proj' is one pattern for whole module names and matches none; "
        'for modules of this name set adapter.targets = ["q_proj"]'
    )
    assert len(adapter_layout(model, LoraSpec(targets=("q_proj",))).targets) == 2
