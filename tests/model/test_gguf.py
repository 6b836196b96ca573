import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from support.chat_templates import CHATML
from support.gguf_files import write_gguf
from support.toys import byte_tokenizer, save_tiny_base
from transformers import AutoModelForCausalLM

from fedrouter.config import ModelConfig
from fedrouter.errors import MissingExtraError, ModelError
from fedrouter.model.base_model import BaseModel
from fedrouter.model.gguf import cache_folder

gguf = pytest.importorskip("gguf")
IDS = torch.tensor([[5, 6, 7, 8, 100]])
MATRIX = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return save_tiny_base(tmp_path / "base", seed=0)


def load(path: Path) -> BaseModel:
    return BaseModel.load(ModelConfig(name=str(path)))


@torch.no_grad()
def test_a_file_is_the_model_that_it_was_made_from(base: Path, tmp_path: Path) -> None:
    loaded = load(write_gguf(base, tmp_path / "model.gguf"))
    original = AutoModelForCausalLM.from_pretrained(base)
    assert torch.equal(loaded.model(input_ids=IDS).logits, original(input_ids=IDS).logits)
    assert loaded.prompts.template == "alpaca"
    assert loaded.prompts.bare_ids("a é<eos>") == load(base).prompts.bare_ids("a é<eos>")
    assert loaded.prompts.eos_id == 1
    [folder] = cache_folder().iterdir()
    assert loaded.note == (
        f"{tmp_path / 'model.gguf'} was converted for transformers; the result is in {folder}"
    )
    assert load(base).note is None


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16", "BF16"])
def test_quantised_weights_are_the_numbers_that_gguf_reads(
    base: Path, tmp_path: Path, kind: str
) -> None:
    kind = gguf.GGMLQuantizationType[kind]
    path = write_gguf(base, tmp_path / "model.gguf", kind)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensor = tensors["blk.1.ffn_up.weight"]
    assert tensor.tensor_type == kind
    expected = gguf.dequantize(tensor.data, kind)
    np.testing.assert_array_equal(load(path).model.get_parameter(MATRIX).numpy(), expected)


def test_a_file_is_converted_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(base, tmp_path / "model.gguf")
    first = load(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    moved = path.rename(tmp_path / "elsewhere.GGUF")
    assert load(moved).fingerprint == first.fingerprint
    [folder] = cache_folder().iterdir()
    other = write_gguf(save_tiny_base(tmp_path / "other", seed=1), tmp_path / "other.gguf")
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrouter\[gguf\]'"):
        load(other)
    assert list(cache_folder().iterdir()) == [folder]


def test_the_chat_template_in_a_file_is_used(base: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(base)
    loaded = load(write_gguf(base, tmp_path / "model.gguf"))
    assert loaded.prompts.template == "chat"
    assert loaded.prompts.prompt_ids("a") == load(base).prompts.prompt_ids("a")


def test_files_that_hold_no_model(base: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(write_gguf(base, tmp_path / "model.gguf").read_bytes()[:3000])
    text = tmp_path / "text.gguf"
    text.write_text("no model")
    for path in (damaged, text):
        with pytest.raises(ModelError, match="cannot be read as a GGUF model") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=rf"lacks 1 of its weights, first '{MATRIX}'"):
        load(write_gguf(base, tmp_path / "hole.gguf", leave_out=MATRIX))
    assert not list(cache_folder().iterdir())


def test_a_folder_with_a_file_and_the_advice_works(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write_gguf(base, folder / "model.gguf")
    with pytest.raises(ModelError, match=r"holds a GGUF file; name the file itself \(model\.gguf"):
        load(folder)
    load(path)
    with pytest.raises(ModelError, match="is not a folder or a GGUF file"):
        load(folder / "mistyped.gguf")
