import copy

import numpy as np
import pytest
import torch
from support.toys import toy_rows

from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.errors import AdapterError
from fedrouter.evaluation.multi_adapter import AdapterMixture, MultiAdapterModel
from fedrouter.model.base_model import BaseModel
from fedrouter.types import AdapterWeights

SPEC = LoraSpec(rank=2, alpha=4)
ROWS = toy_rows(2)
BLENDS: list[AdapterMixture] = [
    (("a", 1.0),),
    (),
    (("a", 0.3), ("b", 0.7)),
    (("c", -0.2), ("a", 0.9), ("b", 0.5)),
    (("b", 0.5),),
    (("b", 0.5), ("b", 0.5)),
]


@pytest.fixture(scope="module")
def adapters(tiny_base: BaseModel) -> dict[str, AdapterWeights]:
    zero = initial_weights(tiny_base.model, SPEC, torch.Generator())
    draws = np.random.default_rng(0)
    return {
        name: {n: draws.normal(0, 0.3, a.shape).astype(np.float32) for n, a in zero.items()}
        for name in "abc"
    }


def merge_tasks(
    base: BaseModel, adapters: dict[str, AdapterWeights], mixture: AdapterMixture
) -> BaseModel:
    """The base model with the blend added into its own weights."""
    changed = copy.copy(base)
    changed.model = copy.deepcopy(base.model)
    for name, weight in mixture:
        tensors = {key: torch.tensor(array) for key, array in adapters[name].items()}
        for key in (key for key in tensors if "lora_A" in key):
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            delta = tensors[key.replace("lora_A", "lora_B")] @ tensors[key]
            changed.model.get_submodule(module).weight += weight * SPEC.scale * delta
    return changed


def test_blends_in_one_batch_are_those_of_models_with_the_blend_merged(
    tiny_base: BaseModel, adapters: dict[str, AdapterWeights]
) -> None:
    prompts = [row.instruction for row in ROWS]
    with MultiAdapterModel(tiny_base, SPEC, adapters) as multi_adapter:
        losses = multi_adapter.losses(ROWS, BLENDS)
        texts = multi_adapter.generate(prompts, BLENDS, 6)
    for row, mixture, loss, text in zip(ROWS, BLENDS, losses, texts, strict=True):
        judge = merge_tasks(tiny_base, adapters, mixture)
        [example] = judge.prompts.examples([row])
        ids = torch.tensor([example.input_ids])
        labels = ids.clone()
        labels[0, : example.prompt_length] = -100
        with torch.no_grad():
            expected = judge.model(input_ids=ids, labels=labels).loss.item()
        assert loss == pytest.approx(expected, abs=1e-4)
        assert judge.generate([judge.prompts.prompt_ids(row.instruction)], 6) == [text]
    assert len({round(loss, 3) for loss in losses}) == len(ROWS)


def test_the_base_alone_needs_no_adapters(tiny_base: BaseModel) -> None:
    mixtures: list[AdapterMixture] = [()] * len(ROWS)
    with MultiAdapterModel(tiny_base, SPEC, {}) as multi_adapter:
        assert all(np.isfinite(multi_adapter.losses(ROWS, mixtures)))
        assert len(multi_adapter.generate([row.instruction for row in ROWS], mixtures, 2)) == len(
            ROWS
        )
        assert multi_adapter.generate([], [], 2) == []
        assert multi_adapter.losses([], []) == []


def test_an_unknown_name_is_refused_with_those_that_are_known(
    tiny_base: BaseModel, adapters: dict[str, AdapterWeights]
) -> None:
    mixtures: list[AdapterMixture] = [(("a", 1.0),), (("a", 0.5), ("d", 0.5))]
    with MultiAdapterModel(tiny_base, SPEC, adapters) as multi_adapter:
        for ask in (
            lambda: multi_adapter.generate(["x", "y"], mixtures, 2),
            lambda: multi_adapter.losses(ROWS[:2], mixtures),
        ):
            with pytest.raises(AdapterError, match="no adapter is called 'd'; there are: a, b, c"):
                ask()
