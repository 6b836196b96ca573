"""GGUF files, read back by gguf's reader and by transformers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from peft import PeftModel
from support.adapters import frozen, random_weights
from support.toys import byte_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from fedrouter.adapters.lora import LoraSpec, adapter_layout, write_adapter
from fedrouter.errors import ExportError
from fedrouter.export import export_run
from fedrouter.export.gguf_adapter import write_gguf_adapter
from fedrouter.export.gguf_base import can_write_base, write_gguf_base
from fedrouter.export.llama_names import LlamaCppNames
from fedrouter.export.ollama import go_template
from fedrouter.export.source import ExportSource, read_source
from fedrouter.model.fingerprint import fingerprint

IDS = torch.arange(20, 60).unsqueeze(0)
SPEC = LoraSpec(rank=2, alpha=6, dropout=0.0, targets="all-linear")


def tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file in float32, as numpy has their axes."""
    found = GGUFReader(path).tensors
    return {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in found}


def fields(path: Path) -> dict[str, object]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def grouped_source(source: ExportSource, folder: Path) -> ExportSource:
    """The run as if its base model had two query heads for each key head, and unused tokens."""
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    torch.manual_seed(3)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    settings = source.config.replace(model=source.config.model.replace(name=str(folder)))
    summary = {**source.summary, "base_fingerprint": fingerprint(model, byte_tokenizer())}
    return replace(source, config=settings, summary=summary)


def test_transformers_loads_the_built_in_base_model(nano_run: Path, tmp_path: Path) -> None:
    export_run(nano_run, "gguf", tmp_path / "out")
    source = read_source(nano_run, None)
    load = {"gguf_file": "base.gguf", "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", **load)
    with torch.no_grad():
        expected = source.load_base(torch.float32)(input_ids=IDS).logits
        torch.testing.assert_close(model(input_ids=IDS).logits, expected)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="base.gguf")
    text = "Below is an instruction, isn't it?\n\n### Größe:"
    assert tokenizer(text)["input_ids"] == source.tokenizer(text)["input_ids"]
    assert tokenizer.eos_token == source.tokenizer.eos_token


def test_grouped_heads_and_another_rotation(toy_source: ExportSource, tmp_path: Path) -> None:
    source = grouped_source(toy_source, tmp_path / "base")
    write_gguf_base(source, tmp_path / "base.gguf")
    load = {"gguf_file": "base.gguf", "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, **load)
    with torch.no_grad():
        expected = source.load_base()(input_ids=IDS).logits
        torch.testing.assert_close(model(input_ids=IDS).logits, expected)


def test_the_fields_of_the_built_in_base_model(nano_run: Path, tmp_path: Path) -> None:
    export_run(nano_run, "gguf", tmp_path / "out")
    base = fields(tmp_path / "out" / "base.gguf")
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "fedrouter-nano",
        "llama.block_count": 4,
        "llama.attention.head_count_kv": 4,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.padding_token_id": 0,
    }
    assert {name: base[name] for name in expected} == expected
    assert base["tokenizer.ggml.tokens"][:2] == ["<pad>", "<eos>"]
    assert base["tokenizer.ggml.token_type"][:3] == [3, 3, 1]  # control, control, normal
    source = read_source(nano_run, None)
    assert base["tokenizer.chat_template"] == source.tokenizer.chat_template
    weights = tensors(tmp_path / "out" / "base.gguf")
    assert len(weights) == 2 + 4 * 9  # no output layer: it is the embedding's
    embedding = source.load_base(torch.float32).get_input_embeddings().weight.numpy(force=True)
    np.testing.assert_array_equal(weights["token_embd.weight"], embedding)


def test_the_fields_of_an_adapter(toy_run: Path, toy_source: ExportSource, tmp_path: Path) -> None:
    export_run(toy_run, "gguf", tmp_path / "out")
    adapter = fields(tmp_path / "out" / "task-01.gguf")
    expected = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 16.0,
        "adapter.lora.task_name": "task-01",
    }
    assert {name: adapter[name] for name in expected} == expected
    assert sorted(tensors(tmp_path / "out" / "task-01.gguf")) == [
        f"blk.{block}.attn_{module}.weight.lora_{part}"
        for block in (0, 1)
        for module in ("q", "v")
        for part in ("a", "b")
    ]


def test_an_adapter_adds_to_the_base_models_file_what_peft_adds(
    toy_source: ExportSource, tmp_path: Path
) -> None:
    """The file of a model that PEFT merged = the base model's file + alpha / rank B A."""
    source = grouped_source(toy_source, tmp_path / "base")
    base = source.load_base().requires_grad_(False)
    spec, weights = adapter_layout(base, SPEC).spec, random_weights(base, SPEC, seed=1)
    write_adapter(tmp_path / "adapter", weights, spec, "base")
    names = LlamaCppNames(base.config)
    write_gguf_adapter(tmp_path / "adapter.gguf", "task-00", weights, spec, names)
    write_gguf_base(source, tmp_path / "base.gguf")
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "base")
    summary = {**source.summary, "base_fingerprint": fingerprint(merged, source.tokenizer)}
    write_gguf_base(replace(source, summary=summary), tmp_path / "merged.gguf")

    before, after = tensors(tmp_path / "base.gguf"), tensors(tmp_path / "merged.gguf")
    adapter = tensors(tmp_path / "adapter.gguf")
    assert len(adapter) == 2 * 2 * 7
    for name, weight in before.items():
        added = np.zeros_like(weight)
        if f"{name}.lora_a" in adapter:
            added = spec.scale * adapter[f"{name}.lora_b"] @ adapter[f"{name}.lora_a"]
        np.testing.assert_allclose(after[name], weight + added, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
def test_products_are_pefts_but_for_the_order_of_rows(kind: str, tmp_path: Path) -> None:
    model = frozen(kind)
    spec, weights = adapter_layout(model, SPEC).spec, random_weights(model, SPEC, seed=2)
    names = LlamaCppNames(model.config)
    write_gguf_adapter(tmp_path / "adapter.gguf", "task-00", weights, spec, names)
    written = tensors(tmp_path / "adapter.gguf")
    assert len(written) == len(weights)
    for module, name, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        prefix = f"base_model.model.model.layers.1.self_attn.{module}"
        b, a = (weights[f"{prefix}.lora_{part}.weight"] for part in "BA")
        product = written[f"blk.1.{name}.weight.lora_b"] @ written[f"blk.1.{name}.weight.lora_a"]
        if kind == "llama":
            undo = LlamaTensorProcessor()._reverse_permute_weights
            product = undo(product, heads, heads)
        np.testing.assert_allclose(product, b @ a, atol=1e-6)


def test_an_architecture_without_names() -> None:
    with pytest.raises(ExportError, match="convert_lora_to_gguf"):
        LlamaCppNames(frozen("gpt2").config)


def test_a_base_model_that_llama_cpp_has_to_convert(
    toy_source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_write_base(toy_source)
    toy_source.base_config.rope_parameters["rope_type"] = "llama3"
    assert not can_write_base(toy_source)
    monkeypatch.setattr("fedrouter.export.llama_cpp.can_write_base", lambda source: False)
    export_run(toy_source.run.path, "ollama", tmp_path / "out", "someone/tiny")
    assert not (tmp_path / "out" / "base.gguf").exists()
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "python convert_hf_to_gguf.py someone/tiny --outfile base.gguf" in readme


def test_a_modelfile(toy_run: Path, tmp_path: Path) -> None:
    export_run(toy_run, "ollama", tmp_path / "out")
    assert (tmp_path / "out" / "Modelfile.task-02").read_text() == (
        "FROM ./base.gguf\n"
        "ADAPTER ./task-02.gguf\n"
        'TEMPLATE """{{ .Prompt }}\n"""\n'
        "PARAMETER temperature 0\n"
    )
    assert go_template('{"a": {{ b }}"""') == (
        '{{ `{` }}{{ `"` }}a{{ `"` }}: {{ `{` }}{{ `{` }} b }}' + '{{ `"` }}' * 3
    )
