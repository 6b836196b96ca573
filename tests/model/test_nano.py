"""The built-in base model as it is shipped."""

from importlib import resources

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedrouter.config import ModelConfig
from fedrouter.data.builtin import TASK_NAMES, builtin_rows
from fedrouter.evaluation.metrics import ari, contingency
from fedrouter.model.base_model import BaseModel
from fedrouter.routing.clustering import cluster

FOLDER = resources.files("fedrouter") / "assets" / "nano"


@pytest.fixture(scope="module")
def base():
    return BaseModel.load(ModelConfig())


def test_it_is_small_and_in_half_precision():
    assert sum(len(file.read_bytes()) for file in FOLDER.iterdir()) < 16 * 2**20
    tensors = load_file(str(FOLDER / "model.safetensors"))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert 4e6 < sum(tensor.numel() for tensor in tensors.values()) < 9e6


def test_it_is_a_llama_that_ends_and_pads(base):
    config = base.model.config
    assert config.model_type == "llama" and config.max_position_embeddings >= 1024
    assert base.prompts.eos_id == config.eos_token_id
    assert base.prompts.pad_id == config.pad_token_id != base.prompts.eos_id


def test_its_card_gives_the_held_out_loss():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "| Wikipedia | 1." in card and "| prompts | 0." in card


def test_it_predicts_plain_english_better_than_shuffled_words(base):
    text = "The man was born in London and went to school in the United States."
    shuffled = "States in London The school was the to born and went man in United."
    losses = []
    for words in (text, shuffled):
        ids = torch.tensor([[base.prompts.eos_id, *base.prompts.bare_ids(words)]])
        losses.append(base.model(input_ids=ids, labels=ids).loss.item())
    assert losses[0] + 1 < losses[1]


def test_its_embeddings_tell_the_builtin_tasks_apart(base):
    train, test = builtin_rows(30, 10)
    points, questions = (base.embed([row.instruction for row in rows]) for rows in (train, test))
    true = [row.task for row in train]
    found = cluster(points, len(TASK_NAMES), seed=0).labels
    assert ari(contingency(found, true)) >= 0.95
    centroids = np.stack([points[np.array(true) == task].mean(axis=0) for task in TASK_NAMES])
    nearest = ((questions[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean([TASK_NAMES[i] == row.task for i, row in zip(nearest, test, strict=True)]) > 0.97
