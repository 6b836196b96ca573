import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.adapters import broken, frozen, random_weights
from support.tiny_models import KINDS, VOCABULARY, tiny_model

from fedrouter.adapters import lora
from fedrouter.adapters.bank import AdapterBank
from fedrouter.adapters.lora import (
    LoraSpec,
    adapter_layout,
    initial_weights,
    read_adapter,
    write_adapter,
)
from fedrouter.adapters.targets import find_targets
from fedrouter.config import AdapterConfig
from fedrouter.errors import AdapterError

SPEC = LoraSpec(rank=4, alpha=8, dropout=0.0)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def test_spec_from_config_and_out_of_range() -> None:
    spec = LoraSpec.from_config(AdapterConfig(rank=2, targets=["v_proj", "q_proj"]))
    assert spec == LoraSpec(rank=2, targets=("q_proj", "v_proj"))
    assert LoraSpec.from_config(AdapterConfig()) == LoraSpec()
    with pytest.raises(AdapterError, match="dropout"):
        LoraSpec(dropout=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_is_the_resolved_spec_its_targets_and_their_shapes(kind: str) -> None:
    model = frozen(kind)
    layout = adapter_layout(model, SPEC)
    assert layout.spec == SPEC.resolved(model)
    assert layout.targets == find_targets(model, SPEC.peft_config())
    weights = initial_weights(model, SPEC, torch.Generator())
    assert list(layout.shapes.items()) == [(name, a.shape) for name, a in weights.items()]


def test_targets_are_found_once_for_each_model_and_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []

    def counting(*arguments: object) -> object:
        searches.append(arguments)
        return find_targets(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lora, "find_targets", counting)
    model = frozen("llama")
    spec = SPEC.resolved(model)
    initial_weights(model, spec, torch.Generator())
    for _ in range(2):
        AdapterBank(model, SPEC, size=1).remove()
        AdapterBank(model, spec, size=1).remove()
    assert len(searches) == 1
    assert adapter_layout(model, LoraSpec(rank=2)).shapes != adapter_layout(model, spec).shapes
    adapter_layout(frozen("gpt2"), SPEC)
    assert len(searches) == 3


def test_initial_weights_are_pefts_and_come_from_the_generator_alone() -> None:
    model = frozen("llama")
    first, second = (
        initial_weights(model, SPEC, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        if "lora_B" in name:
            assert not array.any()
        else:
            bound = 1 / np.sqrt(32)
            assert 0.8 * bound < np.abs(array).max() <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_saved_folder_loads_in_peft_and_the_other_way_round(kind: str, tmp_path: Path) -> None:
    model = frozen(kind)
    weights = random_weights(model, SPEC, 0)
    ids = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(0))
    slots = torch.zeros(3, dtype=torch.int64)
    with torch.no_grad(), AdapterBank(model, SPEC, size=1) as bank:
        bank.load(0, weights)
        with bank.active(slots):
            logits = model(input_ids=ids).logits
        write_adapter(tmp_path / "runs" / "ours", bank.dump(0), SPEC.resolved(model), "base")
    judge = PeftModel.from_pretrained(frozen(kind), tmp_path / "runs" / "ours").eval()
    torch.testing.assert_close(judge(input_ids=ids).logits, logits, **TOLERANCE)

    judge.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    returned, spec = read_adapter(tmp_path / "theirs")
    assert spec == SPEC.resolved(model)
    assert returned.keys() == weights.keys()
    for name, array in returned.items():
        np.testing.assert_array_equal(array, weights[name])


def test_only_lora_tensors_are_saved_also_with_an_added_pad_token(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.resize_token_embeddings(VOCABULARY + 1)
    model.requires_grad_(False)
    weights = random_weights(model, SPEC, 0)
    write_adapter(tmp_path / "adapter", weights, SPEC, "base")
    files = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    with safe_open(tmp_path / "adapter" / files[1], framework="np") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118
    loaded, _ = read_adapter(tmp_path / "adapter")
    with AdapterBank(model, SPEC, size=1) as bank:
        bank.load(0, loaded)


def test_folder_is_the_same_bytes_each_time_and_replaces_an_older_one(tmp_path: Path) -> None:
    spec = LoraSpec(targets=("k_proj", "o_proj", "q_proj", "v_proj"))
    weights = random_weights(frozen("llama"), spec, 0)
    contents = []
    for _ in range(2):
        write_adapter(tmp_path / "a", weights, spec, "base")
        contents.append([path.read_bytes() for path in sorted((tmp_path / "a").iterdir())])
    assert contents[0] == contents[1]
    assert json.loads(contents[0][0])["target_modules"] == list(spec.targets)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("adapter_config.json", lambda config: {**config, "use_dora": True}, "use_dora"),
        ("adapter_config.json", lambda config: {**config, "bias": "all"}, "bias"),
        ("adapter_config.json", lambda config: {**config, "rank_pattern": {"q": 2}}, "rank_p"),
        ("adapter_config.json", lambda config: {**config, "peft_type": "LOHA"}, "peft_type"),
        ("adapter_config.json", lambda config: {**config, "r": 0}, "rank 0"),
        ("adapter_config.json", lambda config: {**config, "lora_alpha": "x"}, "unusable"),
        ("adapter_config.json", lambda config: [config], "unusable"),
        ("adapter_model.safetensors", lambda arrays: {"embed": np.ones((2, 2))}, "not a LoRA"),
        ("adapter_model.safetensors", lambda arrays: broken(arrays, "infinite"), "infinity"),
        ("adapter_model.safetensors", lambda arrays: broken(arrays, "nan"), "NaN"),
        ("adapter_model.safetensors", lambda arrays: broken(arrays, "float64"), "float64"),
        ("adapter_model.safetensors", lambda arrays: broken(arrays, "transposed"), "shape"),
    ],
)
def test_unusable_folders_are_refused(
    file: str, change: Callable, says: str, tmp_path: Path
) -> None:
    write_adapter(tmp_path, random_weights(frozen("llama"), SPEC, 0), SPEC, "base")
    path = tmp_path / file
    if path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    else:
        save_file({n: np.ascontiguousarray(a) for n, a in change(load_file(path)).items()}, path)
    with pytest.raises(AdapterError, match=says) as caught:
        read_adapter(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_or_cut_files_are_refused(file: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", random_weights(frozen("llama"), SPEC, 0), SPEC, "base")
    path = tmp_path / "a" / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AdapterError, match=file):
        read_adapter(tmp_path / "a")
    path.unlink()
    with pytest.raises(AdapterError, match=file):
        read_adapter(tmp_path / "a")
