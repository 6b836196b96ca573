import pytest
import torch
from support.adapters import frozen

from fedrouter.adapters.lora import LoraSpec
from fedrouter.adapters.targets import find_targets
from fedrouter.errors import AdapterError


def short_names(kind: str, targets: tuple[str, ...] | str | None) -> set[str]:
    spec = LoraSpec(targets=targets)
    return {t.name.split(".")[-1] for t in find_targets(frozen(kind), spec.peft_config())}


def test_targets_follow_pefts_rules() -> None:
    assert short_names("llama", None) == {"q_proj", "v_proj"}
    assert short_names("gpt2", None) == {"c_attn"}
    assert short_names("llama", ("o_proj", "down_proj")) == {"o_proj", "down_proj"}
    assert short_names("llama", r".*layers\.1\..*(gate|up)_proj") == {"gate_proj", "up_proj"}
    assert "lm_head" not in short_names("llama", "all-linear")
    assert len(short_names("llama", "all-linear")) == 7
    assert short_names("gpt2", "all-linear") == {"c_attn", "c_proj", "c_fc"}


@pytest.mark.parametrize("targets", [("nothing",), ("input_layernorm",), ("embed_tokens",)])
def test_targets_that_cannot_carry_adapters_are_refused(targets: tuple[str, ...]) -> None:
    with pytest.raises(AdapterError, match=r"adapter\.targets"):
        LoraSpec(targets=targets).resolved(frozen("llama"))


def test_output_layer_is_refused() -> None:
    with pytest.raises(AdapterError, match="lm_head"):
        LoraSpec(targets=("lm_head",)).resolved(frozen("llama"))


def test_architecture_without_defaults_asks_for_targets_in_one_line() -> None:
    model = frozen("llama")
    model.config.model_type = "unheard-of"
    model.model = model.lm_head = torch.nn.Module()  # nothing that could carry an adapter
    with pytest.raises(AdapterError, match=r"set adapter\.targets") as caught:
        LoraSpec().resolved(model)
    assert "\n" not in str(caught.value)
