from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toys import toy_rows
from torch import Tensor, nn

from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.errors import AdapterError
from fedrouter.model.base_model import BaseModel
from fedrouter.model.losses import Batch, row_losses
from fedrouter.model.prompt_format import Example
from fedrouter.training.trainer import TrainJob, TrainResult, batches, train
from fedrouter.types import AdapterWeights, LoraMatrices, select_matrices

SPEC = LoraSpec(rank=2, alpha=4, dropout=0.1)
NO_DROPOUT = LoraSpec(rank=2, alpha=4, dropout=0.0)
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


def random_weights(base: BaseModel, seed: int) -> dict[str, np.ndarray]:
    """An adapter of which neither A nor B is zero."""
    draws = np.random.default_rng(seed)
    zero = initial_weights(base.model, SPEC, torch.Generator())
    return {name: draws.normal(0, 0.2, a.shape).astype(np.float32) for name, a in zero.items()}


@contextmanager
def adapted(base: BaseModel, adapters: Sequence[tuple[float, dict[str, Tensor]]]) -> Iterator[None]:
    """W0 x + sum of w * 2 * B A x, written out (the factor 2 is alpha / rank)."""

    def hook(terms: list[tuple[float, Tensor, Tensor]]) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + sum(w * 2 * (inputs[0] @ a.T @ b.T) for w, a, b in terms)

        return add

    handles = []
    for name_a in (name for name in adapters[0][1] if "lora_A" in name):
        module = name_a.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        name_b = name_a.replace("lora_A", "lora_B")
        terms = [(w, tensors[name_a], tensors[name_b]) for w, tensors in adapters]
        handles.append(base.model.get_submodule(module).register_forward_hook(hook(terms)))
    yield
    for handle in handles:
        handle.remove()


def by_hand(base: BaseModel, job: TrainJob) -> tuple[dict[str, np.ndarray], float]:
    """Train one job sample by sample with plain autograd; its weights and mean data loss."""
    trained = {name: torch.tensor(array) for name, array in job.weights.items()}
    chosen = [tensor.requires_grad_() for tensor in select_matrices(trained, job.parts).values()]
    constant = {name: torch.tensor(array) for name, array in (job.companion or {}).items()}
    adapters = [(job.share, trained), *([(1 - job.share, constant)] if constant else [])]
    optimizer = torch.optim.AdamW(chosen, lr=job.lr, weight_decay=0.0)
    data_losses = []
    for batch in batches(job):
        losses = []
        for example in batch:
            ids = torch.tensor([example.input_ids])
            with adapted(base, adapters):
                logits = base.model(input_ids=ids, use_cache=False).logits[0]
            kept = slice(example.prompt_length - 1, -1)
            targets = ids[0, example.prompt_length :]
            losses.append(nn.functional.cross_entropy(logits[kept], targets, reduction="none"))
        loss = torch.cat(losses).mean()
        data_losses.append(loss.item())
        for name, anchor in (job.anchor or {}).items():
            if trained[name].requires_grad:
                loss = loss + job.mu / 2 * ((trained[name] - torch.tensor(anchor)) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(chosen, job.max_grad_norm)
        optimizer.step()
    weights = {name: tensor.detach().numpy() for name, tensor in trained.items()}
    return weights, sum(data_losses) / len(data_losses)


def check_by_hand(base: BaseModel, one: TrainJob) -> TrainResult:
    [result] = train(base, NO_DROPOUT, [one], 1)
    weights, loss = by_hand(base, one)
    assert result.loss == pytest.approx(loss, abs=ATOL)
    for name, array in weights.items():
        np.testing.assert_allclose(result.weights[name], array, atol=ATOL, rtol=0)
    return result


@pytest.mark.parametrize("parts", ["AB", "A", "B"])
def test_only_the_asked_matrices_are_trained(
    tiny_base: BaseModel, examples: list[Example], parts: LoraMatrices
) -> None:
    start = random_weights(tiny_base, 1)
    one = replace(job(tiny_base, examples, 1), weights=start, parts=parts, max_grad_norm=0.1)
    result = check_by_hand(tiny_base, one)
    for name, array in start.items():
        assert np.array_equal(result.weights[name], array) == (
            name not in select_matrices(start, parts)
        )


@pytest.mark.parametrize("max_grad_norm", [0.1, 100.0])
@pytest.mark.parametrize("parts", ["AB", "B"])
def test_the_proximal_term_is_part_of_the_clipped_loss(
    tiny_base: BaseModel, examples: list[Example], parts: LoraMatrices, max_grad_norm: float
) -> None:
    start = random_weights(tiny_base, 1)
    changes = {"weights": start, "parts": parts, "max_grad_norm": max_grad_norm}
    plain = replace(job(tiny_base, examples, 1), **changes)
    one = replace(plain, anchor=random_weights(tiny_base, 2), mu=0.5)
    held = check_by_hand(tiny_base, one)
    [free] = train(tiny_base, NO_DROPOUT, [plain], 1)
    assert distance(held.weights, one.anchor) < distance(free.weights, one.anchor)


def distance(weights: AdapterWeights, other: AdapterWeights | None) -> float:
    """Squared, over all tensors."""
    assert other is not None
    return sum(float(np.square(array - other[name]).sum()) for name, array in weights.items())


def test_the_first_loss_leaves_the_proximal_term_out(
    tiny_base: BaseModel, examples: list[Example]
) -> None:
    plain = job(tiny_base, examples, 1, steps=1)
    far = {name: array + 100 for name, array in plain.weights.items()}
    held, free = train(tiny_base, SPEC, [replace(plain, anchor=far, mu=1.0), plain], 1)
    assert held.loss == free.loss


def test_what_an_anchor_lacks_is_held_to_where_it_starts(
    tiny_base: BaseModel, examples: list[Example]
) -> None:
    start, anchor = random_weights(tiny_base, 1), random_weights(tiny_base, 2)
    whole = replace(
        job(tiny_base, examples, 1),
        weights=start,
        anchor={**anchor, **select_matrices(start, "A")},
        mu=0.5,
    )
    part = replace(whole, anchor=select_matrices(anchor, "B"))
    one, other = train(tiny_base, SPEC, [whole, part], 1)
    assert_same(one, other, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_training_beside_a_constant_adapter(
    tiny_base: BaseModel, examples: list[Example], share: float
) -> None:
    plain = replace(job(tiny_base, examples, 1), weights=random_weights(tiny_base, 1))
    companion = random_weights(tiny_base, 2)
    result = check_by_hand(tiny_base, replace(plain, companion=companion, share=share))
    if share == 0:
        assert_same(result, TrainResult(plain.weights, result.loss, result.tokens), atol=0)
    if share == 1:
        [alone] = train(tiny_base, NO_DROPOUT, [plain], 1)
        assert_same(result, alone, atol=ATOL)


def test_both_adapters_see_the_same_dropout(tiny_base: BaseModel, examples: list[Example]) -> None:
    plain = replace(job(tiny_base, examples, 1, steps=1), weights=random_weights(tiny_base, 1))
    halves, whole = train(
        tiny_base, SPEC, [replace(plain, companion=plain.weights, share=0.5), plain], 1
    )
    assert halves.loss == pytest.approx(whole.loss, abs=1e-6)


def test_a_constant_adapter_must_be_complete(tiny_base: BaseModel, examples: list[Example]) -> None:
    one = job(tiny_base, examples, 1)
    with pytest.raises(AdapterError, match="is missing"):
        list(train(tiny_base, SPEC, [replace(one, companion=select_matrices(one.weights, "A"))], 1))


KINDS_OF_JOBS = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 2),
        "parts": st.sampled_from(["AB", "B"]),
        "mu": st.sampled_from([0.0, 0.1, 1.0]),
        "anchored": st.booleans(),
        "share": st.sampled_from([None, 0.25, 0.5]),
    }
)


@settings(max_examples=12)
@given(kinds=st.lists(KINDS_OF_JOBS, min_size=2, max_size=5), fuse=st.integers(2, 5))
def test_fusion_changes_nothing_whatever_the_jobs_are(
    tiny_base: BaseModel, examples: list[Example], kinds: list[dict[str, Any]], fuse: int
) -> None:
    jobs = [
        replace(
            job(tiny_base, examples[i::3], seed=i, steps=kind["steps"]),
            weights=random_weights(tiny_base, i),
            parts=kind["parts"],
            anchor=random_weights(tiny_base, 10 + i) if kind["anchored"] else None,
            mu=kind["mu"],
            companion=None if kind["share"] is None else random_weights(tiny_base, 20 + i),
            share=kind["share"] or 1.0,
        )
        for i, kind in enumerate(kinds)
    ]
    for one, fused in zip(jobs, train(tiny_base, SPEC, jobs, fuse), strict=True):
        [alone] = train(tiny_base, SPEC, [one], fuse=1)
        assert alone.tokens == fused.tokens
        assert alone.loss == pytest.approx(fused.loss, abs=1e-5)
        # By norm: among many draws AdamW finds a gradient that is all noise, and scales it up.
        noise = distance(fused.weights, alone.weights)
        assert noise < distance(one.weights, alone.weights) / 1000**2


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
    monkeypatch.setattr("fedrouter.training.trainer.training_tokens", lambda *_, **__: 40)
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
