"""DP-SGD (Abadi et al., "Deep Learning with Differential Privacy", 2016) for fused train jobs.

Each sample's gradient is clipped before the gradients of a step are added up, and noise is added to
the sum. Adapters of a bank have separate gradients, so that one pass has one sample of each job.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fedrouter.adapters.bank import AdapterBank
from fedrouter.privacy.noise import normal_noise

Row = TypeVar("Row")


@dataclass(frozen=True)
class GradientNoise:
    """The noise of a train job.

    Attributes:
        max_norm: the norm to which a sample's gradient is clipped.
        multiplier: the noise multiplier of a step.
        secret, path: as in `normal_noise`.
    """

    max_norm: float
    multiplier: float
    secret: str
    path: tuple[str | int, ...]


def largest_uses(steps: int, batch_size: int, samples: int) -> int:
    """The largest number of steps of a job that use the same sample: once in each epoch."""
    per_epoch = samples // min(batch_size, samples)
    return -(-steps // per_epoch)


def set_private_gradients(
    bank: AdapterBank,
    noises: Sequence[GradientNoise],
    batches: Sequence[Sequence[Row]],
    accumulate: Callable[[Sequence[Row]], Tensor],
    step: int,
) -> Tensor:
    """Set each adapter's gradient to the noisy mean of its samples' clipped gradients.

    Args:
        bank: the adapters; job i has slot i.
        noises: the noise of each job; `max_norm` is the same for all.
        batches: the samples of each job in this step.
        accumulate: adds to each adapter's gradient that of its mean loss over the response tokens
            of the rows that it is given, and returns the losses, shape (bank.size,).
        step: the step's number.

    Returns:
        The mean losses, shape (bank.size,).
    """
    parameters = bank.parameters()
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    losses = torch.zeros(bank.size, device=sums[0].device)
    sizes = torch.ones_like(losses)
    for job, batch in enumerate(batches):
        sizes[job] = len(batch)
    for i in range(max(map(len, batches))):
        for parameter in parameters:
            parameter.grad = None
        losses += accumulate([batch[i] for batch in batches if i < len(batch)])
        bank.clip_gradients(noises[0].max_norm)
        for total, parameter in zip(sums, parameters, strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad)
    for job, noise in enumerate(noises):
        _add_noise([total[job] for total in sums], noise, step)
    for total, parameter in zip(sums, parameters, strict=True):
        parameter.grad = total / sizes.view(-1, 1, 1)
    return losses / sizes


def _add_noise(gradients: Sequence[Tensor], noise: GradientNoise, step: int) -> None:
    """Add noise to the gradients of one adapter, in place."""
    numbers = [gradient.numel() for gradient in gradients]
    draws = normal_noise(noise.secret, *noise.path, step, size=sum(numbers))
    scaled = torch.from_numpy(draws * noise.multiplier * noise.max_norm)
    for gradient, part in zip(gradients, scaled.split(numbers), strict=True):
        gradient.add_(part.view(gradient.shape).to(gradient))
