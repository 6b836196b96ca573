import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.tiny_models import random_architecture
from support.toys import byte_tokenizer, save_tiny_base
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import ModelConfig
from fedrouter.data.rows import Row
from fedrouter.errors import ModelError
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.model.base_model import BaseModel

SMALL = {
    "vocab_size": 258,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 600,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_base(tmp_path / "base", seed=0)


def load(folder: Path | str, dtype: str = "float32") -> BaseModel:
    return BaseModel.load(ModelConfig(name=str(folder), dtype=dtype))


def edit(folder: Path, name: str, value: float | None) -> None:
    """Set the first number of a weight, or take the weight away."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if value is None:
        del tensors[name]
    else:
        tensors[name].view(-1)[0] = value
    save_file(tensors, path, {"format": "pt"})


def random_base(kind: str, **settings: object) -> BaseModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    return BaseModel(model, byte_tokenizer(), ModelConfig())


def test_a_folder_without_a_weight(folder: Path) -> None:
    edit(folder, "model.layers.1.mlp.down_proj.weight", None)
    with pytest.raises(ModelError, match=r"lacks 1 .* 'model\.layers\.1\.mlp\.down_proj\.weight'"):
        load(folder)


def test_weights_that_are_not_those_of_the_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value, message in (
        ("vocab_size", 300, r"'lm_head\.weight' has the shape \(258, 32\), .* means \(300, 32\)"),
        ("num_hidden_layers", 3, r"lacks 9 of its weights"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ModelError, match=message):
            load(folder)


def test_a_folder_above_the_model_or_without_config(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder without config\.json; give the folder that"):
        load(folder.parent)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"without config\.json"):
        load(folder)


def test_weights_in_pickles_are_read_as_numbers_only(folder: Path, tmp_path: Path) -> None:
    expected = load(folder).fingerprint
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load(folder).fingerprint == expected
    torch.save({"a": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="never unpickles; save the model as safetensors"):
        load(folder)


def test_a_model_that_sees_later_tokens_and_the_advice_works() -> None:
    with pytest.raises(ModelError, match="its bert layers see later tokens; use another"):
        random_base("bert", **SMALL)
    random_base("bert", **SMALL, is_decoder=True)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "gpt_neox"])
def test_a_folder_without_a_tokenizer(folder: Path, kind: str) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL)).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"has no tokenizer; put the tokenizer's files"):
        load(folder)
    byte_tokenizer().save_pretrained(folder)
    load(folder)


def test_an_adapter_is_no_base_and_the_advice_works(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    peft_model = get_peft_model(model, config)
    peft_model.peft_config["default"].base_model_name_or_path = str(folder)
    peft_model.save_pretrained(adapter)
    with pytest.raises(ModelError, match="holds a PEFT adapter") as caught:
        load(adapter)
    assert repr(str(folder)) in str(caught.value)
    load(folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "merged")
    load(tmp_path / "merged")


def test_nan_in_a_weight(folder: Path) -> None:
    edit(folder, "model.layers.0.self_attn.q_proj.weight", float("nan"))
    with pytest.raises(ModelError, match=r"weight 'model\.layers\.0\.self_attn\.q_proj\.weight'"):
        load(folder)


def test_too_large_for_float16_and_the_advice_works(folder: Path) -> None:
    edit(folder, "model.norm.weight", 1e5)
    with pytest.raises(ModelError, match=r"use model\.dtype = 'bfloat16' or 'float32'"):
        load(folder, "float16")
    for dtype in ("bfloat16", "float32"):
        load(folder, dtype)


def test_overflow_on_some_tokens_only_and_the_advice_works(folder: Path) -> None:
    letter = byte_tokenizer()("x").input_ids[0]
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][letter] = 65504  # any addition is too much
    tensors["model.layers.0.mlp.down_proj.weight"] *= 1e5
    save_file(tensors, path, {"format": "pt"})
    rows = [Row("ab", "c"), Row("x", "c")]
    half = load(folder, "float16")
    half.check_logits(rows[:1])
    with pytest.raises(ModelError, match=r"in float16 \(in its logits\); use model\.dtype = 'bfl"):
        half.check_logits(rows)
    for dtype in ("bfloat16", "float32"):
        load(folder, dtype).check_logits(rows)


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_in_a_folder_is_never_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to run code"))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = json.loads((folder / where).read_text())
    if where == "config.json":
        settings |= {"model_type": "homemade", "architectures": ["HomemadeForCausalLM"]}
        settings["auto_map"] = {
            "AutoConfig": "code.HomemadeConfig",
            "AutoModelForCausalLM": "code.HomemadeForCausalLM",
        }
    else:
        settings["tokenizer_class"] = "HomemadeTokenizer"
        settings["auto_map"] = {"AutoTokenizer": ["code.HomemadeTokenizer", None]}
    (folder / where).write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="needs Python code from its folder") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_padding_outside_the_embeddings_falls_back_to_eos(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    base = load(folder)
    assert tokenizer.pad_token_id == 258
    assert base.prompts.pad_id == base.prompts.eos_id
    assert base.embed(["a", "abc"]).shape == (2, 32)


def test_a_token_outside_the_embeddings_and_the_advice_works(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["apple"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"'apple' with id 258, .* for 258 tokens only"):
        load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    load(folder)


def test_a_mistyped_path_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    started = time.perf_counter()
    for name in ("models/nonesuch", "a/b/c", "./x"):
        with pytest.raises(ModelError, match="is not a folder or a GGUF file; give 'nano'"):
            load(name)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="is not a folder here"):
        load("owner/nonesuch")
    assert time.perf_counter() - started < 15


@pytest.mark.parametrize("kind", ["gemma3", "llava", "qwen2_vl", "llama4"])
@torch.no_grad()
def test_models_of_texts_with_images_work_on_texts(tmp_path: Path, kind: str) -> None:
    original = random_architecture(kind)
    original.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    base = load(tmp_path)
    assert base.positions == 600
    prompts = [base.prompts.prompt_ids(text) for text in ("a", "bcd")]
    assert base.generate(prompts, 4) == [base.generate([prompt], 4)[0] for prompt in prompts]
    ids = torch.tensor(prompts[:1])
    kept = base.response_logits(ids, torch.ones_like(ids), torch.ones_like(ids).bool())
    torch.testing.assert_close(kept, original(input_ids=ids).logits[0])
    bare = torch.tensor([base.prompts.bare_ids("bcd")])
    hidden = original(input_ids=bare, output_hidden_states=True).hidden_states[-1]
    expected = hidden.mean(1).numpy()
    np.testing.assert_allclose(base.embed(["bcd"]), expected, rtol=1e-4, atol=1e-5)


def test_embeddings_narrower_than_the_hidden_layers() -> None:
    base = random_base(
        "opt", **SMALL, word_embed_proj_dim=8, ffn_dim=24, do_layer_norm_before=False
    )
    assert base.embed([]).shape == (0, 8)
    assert base.embed(["a", "bc"]).shape == (2, 8)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba"])
def test_padding_is_masked_in_most_models(kind: str) -> None:
    assert random_base(kind, **SMALL).masks_padding


def test_a_model_that_ignores_the_mask_gets_no_padding() -> None:
    base = random_base("rwkv", vocab_size=258, hidden_size=16, num_hidden_layers=2)
    assert not base.masks_padding
    prompts = [base.prompts.prompt_ids(text) for text in ("a", "bcd")]
    with pytest.raises(ModelError, match="ignores attention masks"):
        base.generate(prompts, 3)
    alone, shorter, longer = base.embed(["a"]), base.embed(["b"]), base.embed(["b" * 40])
    together = base.embed(["b" * 40, "a", "b"])  # padding on the right comes too late
    np.testing.assert_array_equal(together, np.concatenate([longer, alone, shorter]))


def test_a_model_that_ignores_the_mask_answers_a_batch_as_one_prompt_at_a_time() -> None:
    base = random_base("rwkv", vocab_size=258, hidden_size=16, num_hidden_layers=2)
    prompts = ["a", "bcd", "efg", "some more"]
    with MultiAdapterModel(base, LoraSpec(), {}) as multi_adapter:
        together = multi_adapter.generate(prompts, [()] * 4, 5)
        alone = [multi_adapter.generate([prompt], [()], 5)[0] for prompt in prompts]
    assert together == alone
