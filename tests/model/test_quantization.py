"""Base models with real bitsandbytes layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from support.adapters import random_weights
from support.toys import toy_rows, toy_settings
from transformers import AutoTokenizer

from fedrouter.adapters.bank import AdapterBank
from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import ModelConfig, load_config
from fedrouter.errors import ConfigError, MissingExtraError
from fedrouter.experiment import run
from fedrouter.model import quantization
from fedrouter.model.base_model import BaseModel
from fedrouter.model.fingerprint import fingerprint
from fedrouter.model.quantization import quantization_options
from fedrouter.training.trainer import TrainJob, train

SPEC = LoraSpec(rank=2, alpha=4, dropout=0.0)
KINDS = ("int8", "nf4")


def load(folder: Path, kind: str | None) -> BaseModel:
    pytest.importorskip("bitsandbytes")
    return BaseModel.load(
        ModelConfig(name=str(folder), quantization=kind, template="{instruction}\n"), "cpu"
    )


@torch.no_grad()
def logits(base: BaseModel) -> torch.Tensor:
    tokens = torch.tensor([base.prompts.bare_ids("one two three")])
    return base.model(input_ids=tokens, use_cache=False).logits.float()


@pytest.mark.parametrize(("kind", "least"), [("int8", 0.999), ("nf4", 0.95)])
def test_the_weights_of_linear_layers_are_quantized(
    tiny_folder: Path, kind: str, least: float
) -> None:
    base, plain = load(tiny_folder, kind), load(tiny_folder, None)
    weight = base.model.model.layers[0].self_attn.q_proj.weight
    assert weight.dtype == (torch.int8 if kind == "int8" else torch.uint8)
    assert base.model.lm_head.weight.dtype == torch.float32
    same = torch.nn.functional.cosine_similarity(logits(base), logits(plain), dim=-1)
    assert same.min() > least


def test_fingerprints_tell_quantizations_apart(tiny_folder: Path) -> None:
    found = [load(tiny_folder, kind).fingerprint for kind in (None, *KINDS)]
    assert len(set(found)) == 3
    assert load(tiny_folder, "nf4").fingerprint == found[2]


def test_a_model_and_its_quantized_copies_share_the_unquantized_fingerprint(
    tiny_folder: Path,
) -> None:
    found = [load(tiny_folder, kind) for kind in (None, *KINDS)]
    mixed = {base.compared_fingerprint(mixed_quantization=True) for base in found}
    assert len(mixed) == 1
    assert [base.compared_fingerprint(mixed_quantization=False) for base in found] == [
        base.fingerprint for base in found
    ]
    other = load(tiny_folder, None).model
    other.model.norm.weight.mul_(2)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert fingerprint(other, tokenizer, unquantized=True) not in mixed


@pytest.mark.parametrize("kind", KINDS)
def test_the_bank_on_quantized_layers_gives_what_peft_gives(tiny_folder: Path, kind: str) -> None:
    base, judge = load(tiny_folder, kind), load(tiny_folder, kind)
    weights = random_weights(base.model, SPEC, seed=1)
    with AdapterBank(base.model, SPEC, 1) as bank:
        bank.load(0, weights)
        with bank.active(torch.tensor([0])):
            found = logits(base)
    adapted = get_peft_model(judge.model, SPEC.peft_config())
    state = {
        name.replace(".weight", ".default.weight"): torch.from_numpy(array)
        for name, array in weights.items()
    }
    assert not adapted.load_state_dict(state, strict=False).unexpected_keys
    judge.model = adapted
    torch.testing.assert_close(found, logits(judge), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_learns_on_a_quantized_base(tiny_folder: Path, kind: str) -> None:
    base = load(tiny_folder, kind)
    job = TrainJob(
        random_weights(base.model, SPEC, seed=1),
        base.prompts.examples(toy_rows(4)),
        steps=12,
        batch_size=12,
        lr=1e-2,
        max_grad_norm=1.0,
        seed=1,
    )
    losses: list[float] = []
    [result] = train(base, SPEC, [job], 1, lambda step: losses.append(step.loss))
    assert losses[-1] < losses[0]
    assert all(np.isfinite(array).all() for array in result.weights.values())


def test_a_run_on_a_quantized_base(tiny_folder: Path, toy_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    sets = [
        *toy_settings(tiny_folder, toy_data),
        "model.quantization=nf4",
        "federation.rounds=1",
        "evaluation.samples=1",
    ]
    assert run(load_config(None, sets), tmp_path / "run")["tokens"] > 0


def test_what_a_machine_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match=r"'nf4' needs a device of cpu or cuda, got 'mps'"):
        quantization_options("nf4", torch.float32, torch.device("mps"))
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"'int8' needs an extra: .*fedrouter\[quantiz"):
        quantization_options("int8", torch.float32, torch.device("cpu"))
    assert quantization_options(None, torch.float32, torch.device("cpu")) == {}
