import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.toys import save_tiny_base
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fedrouter.config import ModelConfig
from fedrouter.errors import ConfigError, ModelError
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import length_batches, pad
from fedrouter.model.embedding import LAST_TOKEN, PAPER_EMBEDDING, EmbeddingSpec, pool

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
# Each of these does something to its logits that a plain matrix product would miss.
SCALED = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 7.0},
    "cohere": {"logit_scale": 0.25},
    "llama": {},
}


def random_model(kind: str) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **SMALL, **SCALED[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


def test_embedding_is_the_mean_of_the_last_hidden_state(tiny_base: BaseModel) -> None:
    texts = ["one", "a longer prompt", "x"]
    embedded = tiny_base.embed(texts)
    for text, vector in zip(texts, embedded, strict=True):
        ids = torch.tensor([tiny_base.prompts.bare_ids(text)])
        with torch.no_grad():
            hidden = tiny_base.model.model(ids).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0).numpy(), atol=1e-5)


def test_embedding_twice_does_no_second_forward_pass(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny_base.embed(["cached", "also cached"])
    monkeypatch.setattr(tiny_base, "_pooled_hidden", None)
    np.testing.assert_array_equal(tiny_base.embed(["also cached", "cached"]), first[::-1])


def test_embedding_nothing(tiny_base: BaseModel) -> None:
    assert tiny_base.embed([]).shape == (0, 32)


@pytest.mark.parametrize("kind", SCALED)
def test_response_logits_are_the_models_own(tiny_base: BaseModel, kind: str) -> None:
    base = BaseModel(random_model(kind), tiny_base.prompts._tokenizer, ModelConfig())
    tokens = torch.randint(1, 64, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    keep = torch.zeros(3, 7, dtype=torch.bool)
    keep[0, 2] = keep[1, 4] = keep[2, 0] = keep[2, 6] = True
    with torch.no_grad():
        expected = base.model(input_ids=tokens, attention_mask=mask).logits[keep]
        torch.testing.assert_close(base.response_logits(tokens, mask, keep), expected)


def test_generation_does_not_depend_on_the_batch(tiny_base: BaseModel) -> None:
    prompts = [tiny_base.prompts.prompt_ids(text) for text in ("ab", "something longer", "c")]
    together = tiny_base.generate(prompts, max_new_tokens=6)
    assert together == [tiny_base.generate([ids], max_new_tokens=6)[0] for ids in prompts]
    assert not tiny_base.model.training


def test_fingerprint_ignores_the_dtype_and_sees_the_weights(
    tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    half = BaseModel.load(ModelConfig(name=tiny_base.name, dtype="bfloat16"))
    other = save_tiny_base(tmp_path_factory.mktemp("other"), seed=1)
    assert half.fingerprint == tiny_base.fingerprint
    assert BaseModel.load(ModelConfig(name=str(other))).fingerprint != tiny_base.fingerprint


@pytest.mark.parametrize("name", ["./nowhere", "no-such-organisation/no-such-model"])
def test_a_base_model_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError, match=r"model\.name = ") as caught:
        BaseModel.load(ModelConfig(name=name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_base_model(damage: str, tmp_path: Path) -> None:
    folder = save_tiny_base(tmp_path / "base", seed=0)
    (folder / damage).write_bytes((folder / damage).read_bytes()[:50])
    with pytest.raises(ModelError, match=r"model\.name = ") as caught:
        BaseModel.load(ModelConfig(name=str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no such device"):
        BaseModel.load(ModelConfig(name=str(tiny_folder)), device="cuda")


def test_prompts_longer_than_the_model_can_see_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_length = 600 is more than the 512 tokens"):
        BaseModel.load(ModelConfig(name=str(tiny_folder), max_length=600))


def test_answers_end_where_absolute_positions_do(tiny_base: BaseModel) -> None:
    gpt2 = AutoConfig.for_model(
        "gpt2", vocab_size=258, n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=1
    )
    settings = ModelConfig(max_length=64, template="{instruction}")
    model = AutoModelForCausalLM.from_config(gpt2)
    base = BaseModel(model, tiny_base.prompts._tokenizer, settings)
    prompt = base.prompts.prompt_ids("a" * 200)
    assert len(prompt) == 64
    assert len(base.generate([prompt, prompt[:60]], max_new_tokens=30)) == 2


def test_greedy_ignores_the_folders_sampling_settings_and_keeps_its_end_tokens(
    tiny_folder: Path, tmp_path: Path
) -> None:
    plain = BaseModel.load(ModelConfig(name=str(tiny_folder), template="{instruction}"))
    prompt = plain.prompts.prompt_ids("abc")
    [expected] = plain.generate([prompt], 8)
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    path = folder / "generation_config.json"
    stop = ord("x")  # no answer can contain what ends it
    settings = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0}
    path.write_text(json.dumps({**settings, "eos_token_id": [1, stop]}))
    base = BaseModel.load(ModelConfig(name=str(folder), template="{instruction}"))
    assert base.prompts.end_ids == {1, stop}
    assert base.generate([prompt], 8) == [expected]


def test_padding() -> None:
    cpu = torch.device("cpu")
    tokens, mask = pad([[5, 6], [7]], 9, side="left", device=cpu)
    assert tokens.tolist() == [[5, 6], [9, 7]]
    assert mask.tolist() == [[1, 1], [0, 1]]
    assert pad([[5, 6], [7]], 9, side="right", device=cpu)[0].tolist() == [[5, 6], [7, 9]]


def test_length_batches_hold_similar_lengths_within_both_bounds() -> None:
    assert list(length_batches([3, 9, 3, 8], batch_tokens=18)) == [[1, 3], [0, 2]]
    assert list(length_batches([1, 1, 1], batch_rows=2)) == [[0, 1], [2]]
    assert list(length_batches([100], batch_tokens=10)) == [[0]]
    assert list(length_batches([])) == []


@pytest.mark.parametrize("name", ["tiny", "nano"])
@pytest.mark.parametrize(
    "spec", [PAPER_EMBEDDING, LAST_TOKEN, EmbeddingSpec(0.6, "mean_without_first")]
)
def test_an_embedding_does_not_depend_on_what_it_is_embedded_with(
    name: str, spec: EmbeddingSpec, tiny_folder: Path
) -> None:
    config = ModelConfig(name=str(tiny_folder) if name == "tiny" else name, max_length=96)
    base, draws = BaseModel.load(config), np.random.default_rng(0)
    texts = [f"{'word ' * int(draws.integers(0, 20))}{i} of {i * i}" for i in range(60)]
    together = base.embed(texts, spec)
    for _ in range(5):
        base._embeddings.clear()
        some = draws.permutation(len(texts))[: int(draws.integers(1, 30))]
        base.embed([texts[i] for i in some], spec)  # others are embedded before
        assert base.embed(texts, spec).tobytes() == together.tobytes()
    base._embeddings.clear()
    alone = base.embed([texts[7]], spec)
    assert alone.tobytes() == together[7:8].tobytes()


def test_pooling_by_hand() -> None:
    rows = [[900.0, 1, 2, 3], [900, 4, 0, 0], [7, 0, 0, 0]]
    hidden = torch.tensor(rows).unsqueeze(-1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert pool(hidden, mask, "mean").ravel().tolist() == [226.5, 452, 7]
    assert pool(hidden, mask, "mean_without_first").ravel().tolist() == [2, 4, 7]
    assert pool(hidden, mask, "last").ravel().tolist() == [3, 4, 7]


@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_embeddings_that_are_not_remembered_are_those_that_are(
    name: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their batches have as few rows as there are texts."""
    base = BaseModel.load(ModelConfig(name=str(tiny_folder) if name == "tiny" else name))
    texts = [f"{'word ' * i}{i}" for i in range(9)]
    together = base.embed(texts)
    base._embeddings.clear()
    seen: list[int] = []
    pooled = base._pooled_hidden

    def counting(tokens: torch.Tensor, *more: Any) -> Any:
        seen.append(tokens.numel())
        return pooled(tokens, *more)

    monkeypatch.setattr(base, "_pooled_hidden", counting)
    for i, text in enumerate(texts):
        vector = base.embed([text], remember=False)
        np.testing.assert_allclose(vector, together[i : i + 1], rtol=0, atol=5e-6)
    assert max(seen) < 64  # tokens; full batches have 8 rows
    np.testing.assert_allclose(base.embed(texts, remember=False), together, rtol=0, atol=2e-6)
