"""Train jobs -> results: many adapters in one forward/backward over the frozen base model.

What is computed is, adapter by adapter, exactly what training them one after the other computes:
each adapter has its own batches, mean loss over response tokens, proximal term, gradient clipping,
AdamW state and dropout masks, and the base model that they share does not change. So the rows of a
step can be passed through the base model in any grouping: they are sorted by length, so that little
of a pass is padding, and the gradients of the passes add up.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby, islice

import torch
from torch import Tensor

from fedrouter.adapters.bank import NO_ADAPTER, AdapterBank
from fedrouter.adapters.lora import LoraSpec
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import length_batches
from fedrouter.model.losses import Batch, token_losses
from fedrouter.model.prompt_format import Example
from fedrouter.seeding import derive_seed, generator
from fedrouter.training.proximal import ProximalTerms
from fedrouter.types import AdapterWeights, LoraMatrices

PASS_TOKENS = 4096  # padded tokens in one forward/backward; bounds the activations' memory


@dataclass(frozen=True)
class TrainJob:
    """One adapter to train.

    Attributes:
        weights: the adapter to start from.
        examples: its samples; at least one.
        steps: optimiser steps.
        batch_size: samples in a batch; fewer where there are not as many examples.
        lr: AdamW's learning rate, constant over the job.
        max_grad_norm: the adapter's gradient is clipped to this norm.
        seed: decides the batches and the dropout masks.
        parts: the matrices that are trained, at least one; the others keep their bits, and do not
            count in the clipping.
        anchor: the loss has mu / 2 times the squared distance of the trained matrices to these
            (see `ProximalTerms`); a tensor that it lacks is held to where it starts; None: no
            such term.
        mu: see `anchor`.
        beside: a complete adapter, constant, at work beside the trained one; None: none.
        share: what the trained adapter counts where there is one beside it, which counts the rest:
            h = W0 x + share s B A x + (1 - share) s Bc Ac x (FedDPA, Yang et al. 2024).
    """

    weights: AdapterWeights
    examples: Sequence[Example]
    steps: int
    batch_size: int
    lr: float
    max_grad_norm: float
    seed: int
    parts: LoraMatrices = "AB"
    anchor: AdapterWeights | None = None
    mu: float = 0.0
    companion: AdapterWeights | None = None
    share: float = 1.0


@dataclass(frozen=True)
class TrainResult:
    """A trained adapter, its mean training loss per step and the tokens it saw.

    The loss is that of the samples alone: the proximal term is left out, so that losses can be
    compared across methods.
    """

    weights: AdapterWeights
    loss: float
    tokens: int


def train(
    base: BaseModel, spec: LoraSpec, jobs: Iterable[TrainJob], fuse: int
) -> Iterator[TrainResult]:
    """Train `jobs`, up to `fuse` adapters in one pass, and yield their results in order.

    Jobs are drawn as they are needed, and fused only with neighbours that are alike: of the same
    number of steps, learning rate, clipping and trained matrices.

    Raises:
        AdapterError: weights do not fit the base model.
    """
    for _, alike in groupby(jobs, key=_kind):
        while together := list(islice(alike, fuse)):
            yield from _train_together(base, spec, together)


def _kind(job: TrainJob) -> tuple[object, ...]:
    """Equal for jobs that can be fused."""
    return job.steps, job.lr, job.max_grad_norm, job.parts


def batches(job: TrainJob) -> Iterator[list[Example]]:
    """The job's batches: seeded passes over its examples, without replacement within a pass.

    A batch never mixes two passes; the samples that do not fill a batch at the end of a pass are
    left to the next pass's shuffle.
    """
    draws = generator(job.seed, "batches")
    size = min(job.batch_size, len(job.examples))
    order: list[int] = []
    for _ in range(job.steps):
        if len(order) < size:
            order = draws.permutation(len(job.examples)).tolist()
        batch, order = order[:size], order[size:]
        yield [job.examples[i] for i in batch]


def _train_together(base: BaseModel, spec: LoraSpec, jobs: Sequence[TrainJob]) -> list[TrainResult]:
    """Train jobs that are alike, step by step side by side.

    Job i's adapter is in slot i; the constants beside them are in the slots after those.
    """
    first = jobs[0]
    constants = [job.companion for job in jobs if job.companion is not None]
    places = count(len(jobs))
    companion = [NO_ADAPTER if job.companion is None else next(places) for job in jobs]
    tokens = [0] * len(jobs)
    with AdapterBank(base.model, spec, len(jobs) + len(constants), first.parts) as bank:
        proximal = ProximalTerms(bank, _anchors(jobs))  # leaves the anchors in the bank
        for slot, weights in enumerate([*(job.weights for job in jobs), *constants]):
            bank.load(slot, weights)
        losses = torch.zeros(bank.size, device=base.device)
        # A constant's gradient is zero, which AdamW answers with a step of zero.
        optimiser = torch.optim.AdamW(bank.parameters(), lr=first.lr, weight_decay=0.0)
        for step, groups in enumerate(zip(*(batches(job) for job in jobs), strict=True)):
            rows = [
                TrainRow(
                    example,
                    slot,
                    derive_seed(job.seed, "dropout", step, i),
                    companion=companion[slot],
                    share=1.0 if job.companion is None else job.share,
                )
                for slot, (job, group) in enumerate(zip(jobs, groups, strict=True))
                for i, example in enumerate(group)
            ]
            optimiser.zero_grad()
            losses += accumulate_gradients(base, bank, rows)
            proximal.accumulate_gradients()
            bank.clip_gradients(first.max_grad_norm)
            optimiser.step()
            for row in rows:
                tokens[row.slot] += len(row.example.input_ids)
        means = (losses / first.steps).tolist()
        return [
            TrainResult(bank.dump(slot), means[slot], tokens[slot]) for slot in range(len(jobs))
        ]


def _anchors(jobs: Sequence[TrainJob]) -> dict[int, tuple[float, AdapterWeights]]:
    """For each job that has an anchor: its mu and the anchor, completed by where the job starts."""
    return {
        slot: (job.mu, {**job.weights, **job.anchor})
        for slot, job in enumerate(jobs)
        if job.anchor is not None
    }


@dataclass(frozen=True)
class TrainRow:
    """One sample of a step: whose it is, and the seed of its dropout masks.

    Attributes:
        slot: the adapter that it trains.
        beside: the slot of the constant adapter beside it, if there is one.
        share: what the trained adapter counts where there is one beside it; else 1.
    """

    example: Example
    slot: int
    seed: int
    companion: int = NO_ADAPTER
    share: float = 1.0


def accumulate_gradients(base: BaseModel, bank: AdapterBank, rows: Sequence[TrainRow]) -> Tensor:
    """Add to each adapter's gradient that of its mean loss over the response tokens of its rows.

    Returns:
        The losses, shape (bank.size,).
    """
    owners = torch.tensor([row.slot for row in rows], device=base.device)
    counts = torch.zeros(bank.size)
    for row in rows:
        counts[row.slot] += len(row.example.input_ids) - row.example.prompt_length
    counts = counts.clamp(min=1).to(base.device)
    totals = torch.zeros(bank.size, device=base.device)
    for chosen in length_batches([len(row.example.input_ids) for row in rows], PASS_TOKENS):
        slots, weights = _adapters([rows[i] for i in chosen])
        batch = Batch.of(base, [rows[i].example for i in chosen])
        masks = [torch.Generator().manual_seed(rows[i].seed) for i in chosen]
        with bank.active(slots, weights, batch.lengths, masks):
            losses, places = token_losses(base, batch)
        sums = torch.zeros_like(totals).index_add(0, owners[chosen][places], losses)
        share = sums / counts
        share.sum().backward()
        totals += share.detach()
    return totals


def _adapters(rows: Sequence[TrainRow]) -> tuple[Tensor, Tensor | None]:
    """The rows' adapters as `AdapterBank.active` wants them: slots and weights."""
    if all(row.companion == NO_ADAPTER for row in rows):
        return torch.tensor([row.slot for row in rows]), None
    slots = torch.tensor([(row.slot, row.companion) for row in rows])
    return slots, torch.tensor([(row.share, 1 - row.share) for row in rows])
