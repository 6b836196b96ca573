"""Train jobs -> results: many adapters in one forward and backward pass over the frozen base model.

The result is, adapter by adapter, exactly that of training the adapters one after the other. Each
adapter has its own mini-batches, mean loss over response tokens, proximal term, gradient clipping,
AdamW state and dropout masks, and the base model that they share does not change. The rows of a
step can therefore be passed through the base model in any grouping: they are sorted by length,
which keeps padding small, and the gradients of the passes are summed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby, islice
from typing import Literal

import torch
from torch import Tensor

from fedrouter.adapters.bank import NO_ADAPTER, AdapterBank
from fedrouter.adapters.lora import LoraSpec
from fedrouter.model.base_model import BaseModel
from fedrouter.model.batching import length_batches
from fedrouter.model.losses import Batch, token_losses
from fedrouter.model.memory import training_tokens
from fedrouter.model.prompt_format import Example
from fedrouter.seeding import derive_seed, generator
from fedrouter.training.checkpointing import checkpointed, uses_checkpointing
from fedrouter.training.private_gradients import GradientNoise, set_private_gradients
from fedrouter.training.proximal import ProximalTerms
from fedrouter.types import AdapterWeights, LoraMatrices

Checkpointing = bool | Literal["auto"]  # see `checkpointing.uses_checkpointing`


@dataclass(frozen=True)
class TrainJob:
    """One adapter to train.

    Attributes:
        weights: the adapter to start from.
        examples: its training samples, at least one.
        steps: number of optimizer steps.
        batch_size: samples in a mini-batch; all examples if there are fewer.
        lr: AdamW's learning rate, constant over the job.
        max_grad_norm: the adapter's gradient is clipped to this norm.
        seed: seed of the mini-batches and the dropout masks.
        parts: the LoRA matrices to train, at least one. The others do not change, and do not
            count in the gradient norm.
        anchor: adds mu / 2 times the squared distance of the trained matrices to these weights to
            the loss (see `ProximalTerms`); a missing tensor is replaced by that of `weights`; None
            adds no such term.
        mu: the coefficient of the proximal term.
        companion: a complete frozen adapter whose output is mixed with that of the trained one;
            None: no companion.
        share: the weight s of the trained adapter if there is a companion C:
            h = W0 x + s * scale * B A x + (1 - s) * scale * Bc Ac x
            (FedDPA, https://arxiv.org/abs/2403.19211).
        noise: train by DP-SGD, without companion and proximal term; None: no noise.
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
    noise: GradientNoise | None = None


@dataclass(frozen=True)
class TrainResult:
    """A trained adapter, its mean training loss over the steps, and its number of trained tokens.

    The loss is that of the samples alone, without the proximal term, so that losses can be
    compared across methods.
    """

    weights: AdapterWeights
    loss: float
    tokens: int


@dataclass(frozen=True)
class TrainProgress:
    """A finished step of fused train jobs.

    Attributes:
        jobs: their numbers, in the order in which jobs were drawn.
        fraction: the part of each job that the step is, in (0, 1].
        loss: the mean over the jobs' losses, each the mean over its steps so far.
    """

    jobs: range
    fraction: float
    loss: float


def train(
    base: BaseModel,
    spec: LoraSpec,
    jobs: Iterable[TrainJob],
    fuse: int,
    report: Callable[[TrainProgress], None] | None = None,
    *,
    checkpointing: Checkpointing = False,
) -> Iterator[TrainResult]:
    """Train adapters, up to `fuse` of them in one pass.

    Only consecutive jobs with the same number of steps, learning rate, clipping norm and trained
    matrices are fused.

    Args:
        base: the base model; it is not changed.
        spec: the LoRA shape of all adapters.
        jobs: the adapters to train. They are drawn as they are needed.
        fuse: the largest number of adapters in one pass, at least 1.
        report: called after every step.
        checkpointing: whether the backward pass computes activations again (see
            `uses_checkpointing`), which takes less memory and does not change the results.

    Yields:
        The results, in the order of `jobs`.

    Raises:
        AdapterError: weights do not fit the base model.
        ConfigError: checkpointing is asked for, and the base model does not support it.
    """
    recompute = uses_checkpointing(base, checkpointing)
    first = 0
    for _, fusible in groupby(jobs, key=_fusion_key):
        while together := list(islice(fusible, fuse)):
            numbers = range(first, first := first + len(together))
            after_step = _reporter(report, numbers, together)
            yield from _train_together(base, spec, together, after_step, recompute)


def _reporter(
    report: Callable[[TrainProgress], None] | None, numbers: range, jobs: Sequence[TrainJob]
) -> Callable[[Tensor], None]:
    """A function that reports a step, given the losses of all slots over the steps so far."""

    def after_step(losses: Tensor) -> None:
        if report is not None:
            loss = float(losses[: len(jobs)].mean())
            report(TrainProgress(numbers, 1 / jobs[0].steps, loss))

    return after_step


def _fusion_key(job: TrainJob) -> tuple[object, ...]:
    """Equal for jobs that can be trained in one pass."""
    clipped = None if job.noise is None else job.noise.max_norm
    return job.steps, job.lr, job.max_grad_norm, job.parts, clipped


def batches(job: TrainJob) -> Iterator[list[Example]]:
    """Draw the mini-batches of a job: seeded epochs over its examples, without replacement.

    A batch never mixes two epochs. The samples that do not fill a batch at the end of an epoch are
    dropped, and the next epoch shuffles all samples again.
    """
    draws = generator(job.seed, "batches")
    size = min(job.batch_size, len(job.examples))
    order: list[int] = []
    for _ in range(job.steps):
        if len(order) < size:
            order = draws.permutation(len(job.examples)).tolist()
        batch, order = order[:size], order[size:]
        yield [job.examples[i] for i in batch]


@dataclass(frozen=True)
class _BankedJob:
    """A train job with its slots in the adapter bank and all of its mini-batches.

    Attributes:
        job: the job.
        slot: the slot of the trained adapter.
        companion_slot: the slot of the frozen companion; NO_ADAPTER if the job has none.
        batches: one mini-batch for each step.
    """

    job: TrainJob
    slot: int
    companion_slot: int
    batches: list[list[Example]]

    @property
    def share(self) -> float:
        """The weight of the trained adapter; its companion has the rest."""
        return 1.0 if self.companion_slot == NO_ADAPTER else self.job.share

    @property
    def tokens(self) -> int:
        """The number of tokens that the job trains on."""
        return sum(len(example.input_ids) for batch in self.batches for example in batch)

    def rows(self, step: int) -> list["_TrainRow"]:
        """The samples of a step, each with the seed of its dropout masks."""
        return [
            _TrainRow(self, example, derive_seed(self.job.seed, "dropout", step, i))
            for i, example in enumerate(self.batches[step])
        ]


@dataclass(frozen=True)
class _TrainRow:
    """One sample of a step, the job that trains on it, and the seed of its dropout masks."""

    owner: _BankedJob
    example: Example
    seed: int

    @property
    def response_tokens(self) -> int:
        """The number of tokens that the loss is taken over."""
        return len(self.example.input_ids) - self.example.prompt_length


def _train_together(
    base: BaseModel,
    spec: LoraSpec,
    jobs: Sequence[TrainJob],
    after_step: Callable[[Tensor], None],
    recompute: bool,
) -> list[TrainResult]:
    """Train jobs that can be fused, all of them in every step."""
    first, banked = jobs[0], _assign_slots(jobs)
    noises = [job.noise for job in jobs if job.noise is not None]
    companions = [job.companion for job in jobs if job.companion is not None]
    limit = training_tokens(base.model, checkpointing=recompute)
    with ExitStack() as stack:
        bank = stack.enter_context(
            AdapterBank(base.model, spec, len(jobs) + len(companions), first.parts)
        )
        if recompute:
            stack.enter_context(checkpointed(base.model, bank))
        proximal = ProximalTerms(bank, _anchors(jobs))  # leaves the anchors in the bank
        for slot, weights in enumerate([*(job.weights for job in jobs), *companions]):
            bank.load(slot, weights)
        losses = torch.zeros(bank.size, device=base.device)
        # A companion's gradient is zero, for which AdamW makes a step of zero.
        optimizer = torch.optim.AdamW(bank.parameters(), lr=first.lr, weight_decay=0.0)
        for step in range(first.steps):
            optimizer.zero_grad()
            rows = [one.rows(step) for one in banked]
            accumulate = partial(_accumulate_gradients, base, bank, limit=limit)
            if noises:
                losses += set_private_gradients(bank, noises, rows, accumulate, step)
            else:
                losses += accumulate([row for batch in rows for row in batch])
            proximal.accumulate_gradients()
            bank.clip_gradients(first.max_grad_norm)
            optimizer.step()
            after_step(losses / (step + 1))
        means = (losses / first.steps).tolist()
        return [TrainResult(bank.dump(one.slot), means[one.slot], one.tokens) for one in banked]


def _assign_slots(jobs: Sequence[TrainJob]) -> list[_BankedJob]:
    """Give job i the slot i, and the companions the slots after those, in the jobs' order."""
    free_slots = count(len(jobs))
    return [
        _BankedJob(
            job,
            slot,
            NO_ADAPTER if job.companion is None else next(free_slots),
            list(batches(job)),
        )
        for slot, job in enumerate(jobs)
    ]


def _anchors(jobs: Sequence[TrainJob]) -> dict[int, tuple[float, AdapterWeights]]:
    """For each slot whose job has an anchor: mu, and the anchor completed by the start weights."""
    return {
        slot: (job.mu, {**job.weights, **job.anchor})
        for slot, job in enumerate(jobs)
        if job.anchor is not None
    }


def _accumulate_gradients(
    base: BaseModel, bank: AdapterBank, rows: Sequence[_TrainRow], limit: int
) -> Tensor:
    """Add to each adapter's gradient that of its mean loss over the response tokens of its rows.

    Args:
        base: the base model.
        bank: the adapters.
        rows: the rows of a step.
        limit: padded tokens of a pass, if it has several rows.

    Returns:
        The mean losses, shape (bank.size,).
    """
    owners = torch.tensor([row.owner.slot for row in rows], device=base.device)
    counts = torch.zeros(bank.size)
    for row in rows:
        counts[row.owner.slot] += row.response_tokens
    counts = counts.clamp(min=1).to(base.device)
    totals = torch.zeros(bank.size, device=base.device)
    for chosen in length_batches([len(row.example.input_ids) for row in rows], limit):
        slots, weights = _slots_and_weights([rows[i] for i in chosen])
        batch = Batch.of(base, [rows[i].example for i in chosen])
        with bank.active(slots, weights, batch.lengths, [rows[i].seed for i in chosen]):
            losses, row_indices = token_losses(base, batch)
        sums = torch.zeros_like(totals).index_add(0, owners[chosen][row_indices], losses)
        pass_losses = sums / counts
        pass_losses.sum().backward()
        totals += pass_losses.detach()
    return totals


def _slots_and_weights(rows: Sequence[_TrainRow]) -> tuple[Tensor, Tensor | None]:
    """The rows' adapters as `AdapterBank.active` takes them."""
    owners = [row.owner for row in rows]
    if all(one.companion_slot == NO_ADAPTER for one in owners):
        return torch.tensor([one.slot for one in owners]), None
    slots = torch.tensor([(one.slot, one.companion_slot) for one in owners])
    return slots, torch.tensor([(one.share, 1 - one.share) for one in owners])
