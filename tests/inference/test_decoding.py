"""Decoding token by token against `transformers.generate` on one prompt at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.adapters import random_weights
from support.clients import SPEC
from support.toys import byte_tokenizer, toy_rows
from transformers import AutoConfig, AutoModelForCausalLM

from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import ModelConfig
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.inference.decoding import (
    DecodingBatch,
    GeneratedSequence,
    keeps_plain_cache,
    new_sequence,
)
from fedrouter.inference.sampling import Sampling
from fedrouter.model.base_model import BaseModel

NAMES = ("a", "b", "c")
PROMPTS = [row.instruction for row in toy_rows(4)]
MIXTURES = [(), (("a", 1.0),), (("b", 1.0),), (("a", 0.5), ("c", 0.5))]


@pytest.fixture(scope="module")
def model(tiny_base: BaseModel):
    adapters = {name: random_weights(tiny_base.model, SPEC, i) for i, name in enumerate(NAMES)}
    with MultiAdapterModel(tiny_base, SPEC, adapters) as many:
        yield many


def sequence(model: MultiAdapterModel, i: int, **sampling) -> GeneratedSequence:
    ids = model.base.prompts.prompt_ids(PROMPTS[i % len(PROMPTS)])
    seed = sampling.pop("seed", i)
    return new_sequence(
        model.base, ids, MIXTURES[i % 4], Sampling(**{"max_tokens": 6, **sampling}), seed=seed
    )


def finish(batch: DecodingBatch) -> None:
    while batch.sequences:
        batch.step()


def random_base(kind: str) -> BaseModel:
    sizes = {
        "vocab_size": 258,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 600,
        "sliding_window": 8,
        "head_dim": 8,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    return BaseModel(model, byte_tokenizer(), ModelConfig(template="{instruction}"))


# What each of these does beside plain attention: sliding windows, ALiBi, recurrence.
KINDS = {"gemma2": True, "mistral": True, "bloom": False, "mamba": False, "rwkv": False}


@pytest.mark.parametrize(("kind", "cached"), KINDS.items())
def test_other_architectures_decode_as_generate_does(kind: str, cached: bool) -> None:
    base = random_base(kind)
    assert keeps_plain_cache(base) == cached
    with MultiAdapterModel(base, LoraSpec(rank=2), {}) as model:
        texts = ["one", "a longer prompt than its window", "the third"]
        batch, sequences = DecodingBatch(model), []
        for text in texts:
            ids = base.prompts.prompt_ids(text)
            sequences.append(new_sequence(base, ids, (), Sampling(8), seed=0))
            batch.add(sequences[-1:])
            batch.step()
        finish(batch)
        expected = [model.generate([text], [()], 8)[0] for text in texts]
    assert [one.text.text for one in sequences] == expected


@settings(max_examples=15)
@given(arrivals=st.lists(st.integers(0, 5), min_size=1, max_size=8), data=st.data())
def test_whoever_joins_and_leaves_when_a_sequence_is_that_of_generate(
    model: MultiAdapterModel, arrivals: list[int], data: st.DataObject
) -> None:
    """Sequence i joins before step arrivals[i], with others, and asks for 1 to 6 tokens."""
    limits = [data.draw(st.integers(1, 6)) for _ in arrivals]
    sequences = [sequence(model, i, max_tokens=limit) for i, limit in enumerate(limits)]
    batch = DecodingBatch(model)
    for step in range(max(arrivals) + 1):
        batch.add([one for one, at in zip(sequences, arrivals, strict=True) if at == step])
        batch.step()
    finish(batch)
    for i, one in enumerate(sequences):
        [expected] = model.generate(
            [PROMPTS[i % len(PROMPTS)]], [MIXTURES[i % 4]], max_new_tokens=limits[i]
        )
        assert one.text.text == expected
        assert one.finish_reason in {"stop", "length"}


def test_a_sequence_that_is_removed_leaves_the_others_as_they_are(
    model: MultiAdapterModel,
) -> None:
    alone, others = DecodingBatch(model), DecodingBatch(model)
    kept, same, gone = sequence(model, 1), sequence(model, 1), sequence(model, 2)
    alone.add([kept])
    finish(alone)
    others.add([gone, same])
    others.step()
    others.remove([gone])
    assert others.sequences == [same]
    finish(others)
    assert same.text.text == kept.text.text


def test_the_same_seed_gives_the_same_response_in_any_company(model: MultiAdapterModel) -> None:
    def drawn(*company: int) -> str:
        one = sequence(model, 3, temperature=1.0, seed=11)
        batch = DecodingBatch(model)
        batch.add([sequence(model, i, temperature=1.5) for i in company])
        batch.step()
        batch.add([one])
        finish(batch)
        return one.text.text

    assert drawn() == drawn(0, 1, 2, 5)
    assert drawn() != sequence_text(model, seed=12)


def sequence_text(model: MultiAdapterModel, **sampling) -> str:
    one = sequence(model, 3, temperature=1.0, **sampling)
    batch = DecodingBatch(model)
    batch.add([one])
    finish(batch)
    return one.text.text


def test_log_probabilities_are_those_of_the_forward_pass(model: MultiAdapterModel) -> None:
    one = sequence(model, 1, logprobs=3)
    batch = DecodingBatch(model)
    batch.add([one])
    finish(batch)
    ids = torch.tensor([[*one.prompt, *one.tokens]])
    with torch.no_grad(), model.active([MIXTURES[1]]):
        logits = model.base.model(input_ids=ids).logits[0, len(one.prompt) - 1 : -1].float()
    expected = torch.log_softmax(logits, dim=1)
    assert len(one.logprobs) == len(one.tokens) > 0
    for row, token in zip(expected, one.logprobs, strict=True):
        assert token.logprob == pytest.approx(float(row[token.token]), abs=1e-4)
        assert token.top[0][0] == token.token  # greedy


def test_a_response_ends_where_the_base_model_sees_no_further(model: MultiAdapterModel) -> None:
    one = sequence(model, 1, max_tokens=10_000)
    one.prompt = [5] * (model.base.positions - 3)
    batch = DecodingBatch(model)
    batch.add([one])
    finish(batch)
    assert len(one.tokens) <= 3
    if len(one.tokens) == 3:
        assert one.finish_reason == "length"
