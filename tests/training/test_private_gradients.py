"""DP-SGD by hand, its sensitivity by brute force, its noise by statistics."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.toys import toy_rows
from torch import Tensor

from fedrouter.adapters.bank import AdapterBank
from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.model.base_model import BaseModel
from fedrouter.model.losses import Batch, row_losses
from fedrouter.model.prompt_format import Example
from fedrouter.training.private_gradients import (
    GradientNoise,
    largest_uses,
    set_private_gradients,
)
from fedrouter.training.trainer import TrainJob, batches, train

SPEC = LoraSpec(rank=2, alpha=4, dropout=0.0)
NO_NOISE = GradientNoise(0.05, 1e-9, "secret", ("train", 1))
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


@pytest.fixture(scope="module")
def bank(tiny_base: BaseModel) -> Iterator[AdapterBank]:
    with AdapterBank(tiny_base.model, SPEC, 2) as bank:
        yield bank


def gradient(bank: AdapterBank, slot: int) -> Tensor:
    return torch.cat([p.grad[slot].flatten() for p in bank.parameters() if p.grad is not None])


def found(
    bank: AdapterBank, rows: Sequence[Sequence[float]], noise: GradientNoise
) -> tuple[Tensor, Tensor]:
    """Gradients of both slots for rows (job, factor) whose gradient is factor times ones."""

    def accumulate(chosen: Sequence[tuple[int, float]]) -> Tensor:
        losses = torch.zeros(bank.size)
        for parameter in bank.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for job, factor in chosen:
            losses[job] += factor
            for parameter in bank.parameters():
                assert parameter.grad is not None
                parameter.grad[job] += factor
        return losses

    labelled = [[(job, factor) for factor in part] for job, part in enumerate(rows)]
    noises = [noise, replace(noise, path=("train", 2))]
    set_private_gradients(bank, noises, labelled, accumulate, step=0)
    return gradient(bank, 0), gradient(bank, 1)


FACTORS = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=4)


@SHARED
@given(FACTORS, FACTORS, st.data())
def test_one_sample_changes_its_jobs_sum_by_at_most_the_bound(
    bank: AdapterBank, first: list[float], second: list[float], data: st.DataObject
) -> None:
    before = found(bank, [first, second], NO_NOISE)
    changed = [*first]
    changed[data.draw(st.integers(0, len(first) - 1))] = 0.0
    after = found(bank, [changed, second], NO_NOISE)
    apart = float((before[0] - after[0]).norm()) * len(first)
    assert apart <= NO_NOISE.max_norm * (1 + 1e-3)
    torch.testing.assert_close(before[1], after[1])


def test_the_noise_of_a_step_is_of_the_stated_size_and_apart_for_each_job(
    bank: AdapterBank,
) -> None:
    one, other = found(bank, [[0.0] * 4, [0.0] * 2], GradientNoise(0.5, 3.0, "secret", ("x",)))
    assert float(one.std()) == pytest.approx(3.0 * 0.5 / 4, rel=0.06)
    assert float(other.std()) == pytest.approx(3.0 * 0.5 / 2, rel=0.06)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.1


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 20))
def test_no_sample_is_used_more_often_than_said(steps: int, size: int, samples: int) -> None:
    examples = [Example((i, 0), 1) for i in range(samples)]
    job = TrainJob({}, examples, steps, size, 1.0, 1.0, seed=steps)
    used = Counter(example.input_ids for batch in batches(job) for example in batch)
    assert max(used.values()) <= largest_uses(steps, size, samples)
    if samples % min(size, samples) == 0:  # then none is left out of an epoch
        assert max(used.values()) == largest_uses(steps, size, samples)


def by_hand(base: BaseModel, job: TrainJob, noise: GradientNoise) -> dict[str, np.ndarray]:
    """One row at a time through a bank of one adapter, with the clipping written out."""
    with AdapterBank(base.model, SPEC, 1) as bank:
        bank.load(0, job.weights)
        optimizer = torch.optim.AdamW(bank.parameters(), lr=job.lr, weight_decay=0.0)
        for batch in batches(job):
            total = [torch.zeros_like(p) for p in bank.parameters()]
            for example in batch:
                optimizer.zero_grad()
                with bank.active(torch.zeros(1, dtype=torch.int64)):
                    row_losses(base, Batch.of(base, [example])).sum().backward()
                grads = [p.grad for p in bank.parameters() if p.grad is not None]
                norm = torch.sqrt(sum((g**2).sum() for g in grads))
                for one, g in zip(total, grads, strict=True):
                    one.add_(g * min(1.0, noise.max_norm / float(norm)))
            for p, one in zip(bank.parameters(), total, strict=True):
                p.grad = one / len(batch)
            optimizer.step()
        return bank.dump(0)


@pytest.mark.parametrize("fuse", [1, 2])
def test_training_is_dp_sgd(tiny_base: BaseModel, fuse: int) -> None:
    examples = tiny_base.prompts.examples(toy_rows(3))
    start = initial_weights(tiny_base.model, SPEC, torch.Generator().manual_seed(9))
    jobs = [
        TrainJob(start, part, 3, size, 1e-2, 1.0, seed=seed, noise=NO_NOISE)
        for seed, (part, size) in enumerate([(examples[:6], 4), (examples[3:], 3)])
    ]
    results = list(train(tiny_base, SPEC, jobs, fuse))
    for job, result in zip(jobs, results, strict=True):
        expected = by_hand(tiny_base, job, NO_NOISE)
        for name, array in result.weights.items():
            np.testing.assert_allclose(array, expected[name], atol=1e-4)


def test_noise_changes_what_is_trained(tiny_base: BaseModel) -> None:
    examples = tiny_base.prompts.examples(toy_rows(2))
    start = initial_weights(tiny_base.model, SPEC, torch.Generator().manual_seed(9))
    one = TrainJob(start, examples, 1, 4, 1e-2, 1.0, seed=0, noise=NO_NOISE)
    noisy = replace(one, noise=replace(NO_NOISE, multiplier=10.0))
    other = replace(one, noise=replace(NO_NOISE, multiplier=10.0, secret="another"))
    first, second, third, again = train(tiny_base, SPEC, [one, noisy, other, noisy], fuse=4)
    name = next(name for name in start if "lora_B" in name)
    assert np.abs(first.weights[name] - second.weights[name]).max() > 1e-3
    assert np.abs(third.weights[name] - second.weights[name]).max() > 1e-3
    np.testing.assert_array_equal(again.weights[name], second.weights[name])
