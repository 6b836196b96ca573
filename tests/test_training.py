from collections.abc import Sequence

import numpy as np
import pytest
import torch
from conftest import toy_rows

from fedrouter.lora import LoraSpec, initial_weights
from fedrouter.model import BaseModel
from fedrouter.prompts import Example
from fedrouter.training import Batch, TrainJob, TrainResult, batches, row_losses, train

SPEC = LoraSpec(rank=2, alpha=4, dropout=0.1)
ATOL = 5e-5  # 1/200 of a step: AdamW divides small gradients, noise and all, by their size


@pytest.fixture(scope="module")
def examples(tiny_base: BaseModel) -> list[Example]:
    return tiny_base.prompts.examples(toy_rows(8))


def job(base: BaseModel, examples: Sequence[Example], seed: int, steps: int = 3) -> TrainJob:
    weights = initial_weights(base.model, SPEC, torch.Generator().manual_seed(9))
    return TrainJob(weights, examples, steps, batch_size=4, lr=1e-2, max_grad_norm=1.0, seed=seed)


def assert_same(one: TrainResult, other: TrainResult, atol: float) -> None:
    assert one.tokens == other.tokens
    assert one.loss == pytest.approx(other.loss, abs=max(atol, 1e-12))
    for name, array in one.weights.items():
        np.testing.assert_allclose(array, other.weights[name], atol=atol, rtol=0)


@pytest.mark.parametrize("fuse", [2, 3, 8])
def test_fusion_changes_nothing(tiny_base: BaseModel, examples: list[Example], fuse: int) -> None:
    # Different lengths and numbers of samples, one with fewer than a batch.
    jobs = [
        job(tiny_base, examples[0::3], 1),
        job(tiny_base, examples[1::3], 2),
        job(tiny_base, examples[2::3], 3),
        job(tiny_base, examples[:3], 4),
        job(tiny_base, examples, 5),
    ]
    together = list(train(tiny_base, SPEC, jobs, fuse))
    for one, fused in zip(jobs, together, strict=True):
        [alone] = train(tiny_base, SPEC, [one], fuse=1)
        assert_same(alone, fused, atol=ATOL)


def test_the_same_job_gives_the_same_bits(tiny_base: BaseModel, examples: list[Example]) -> None:
    first, second = (list(train(tiny_base, SPEC, [job(tiny_base, examples, 1)], 1)) for _ in "ab")
    assert_same(first[0], second[0], atol=0)


def test_splitting_a_step_into_passes_changes_nothing(
    tiny_base: BaseModel, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(tiny_base, examples, 1), job(tiny_base, examples[:5], 2)]
    whole = list(train(tiny_base, SPEC, jobs, 2))
    monkeypatch.setattr("fedrouter.training.PASS_TOKENS", 40)
    for one, split in zip(whole, train(tiny_base, SPEC, jobs, 2), strict=True):
        assert_same(one, split, atol=ATOL)


def test_jobs_of_different_settings_keep_their_order(
    tiny_base: BaseModel, examples: list[Example]
) -> None:
    jobs = [job(tiny_base, examples, seed, steps) for seed, steps in ((1, 1), (2, 2), (3, 2))]
    for one, result in zip(jobs, train(tiny_base, SPEC, jobs, 8), strict=True):
        [alone] = train(tiny_base, SPEC, [one], 1)
        assert_same(alone, result, atol=ATOL)


def test_training_lowers_the_loss(tiny_base: BaseModel, examples: list[Example]) -> None:
    [early] = train(tiny_base, SPEC, [job(tiny_base, examples, 1, steps=1)], 1)
    [late] = train(tiny_base, SPEC, [job(tiny_base, examples, 1, steps=30)], 1)
    assert late.loss < early.loss


def test_batches_pass_over_all_samples_before_they_repeat() -> None:
    samples = [Example((i, i), 1) for i in range(7)]
    drawn = list(batches(TrainJob({}, samples, 4, 3, 1e-3, 1.0, seed=5)))
    assert [len(batch) for batch in drawn] == [3, 3, 3, 3]
    assert len({example.input_ids for batch in drawn[:2] for example in batch}) == 6
    assert len({example.input_ids for batch in drawn[2:] for example in batch}) == 6
    assert drawn == list(batches(TrainJob({}, samples, 4, 3, 1e-3, 1.0, seed=5)))
    assert drawn != list(batches(TrainJob({}, samples, 4, 3, 1e-3, 1.0, seed=6)))


def test_fewer_samples_than_a_batch_are_all_trained_on() -> None:
    samples = [Example((i, i), 1) for i in range(2)]
    for batch in batches(TrainJob({}, samples, 3, 16, 1e-3, 1.0, seed=5)):
        assert sorted(example.input_ids for example in batch) == [(0, 0), (1, 1)]


def test_row_losses_are_those_of_transformers(
    tiny_base: BaseModel, examples: list[Example]
) -> None:
    chosen = examples[:4]
    with torch.no_grad():
        losses = row_losses(tiny_base, Batch.of(tiny_base, chosen))
        for example, loss in zip(chosen, losses, strict=True):
            ids = torch.tensor([example.input_ids])
            labels = ids.clone()
            labels[0, : example.prompt_length] = -100
            expected = tiny_base.model(input_ids=ids, labels=labels).loss
            torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
