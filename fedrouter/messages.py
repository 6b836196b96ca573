"""All that crosses the wire between the server and a client.

A message holds numbers, names and adapter weights, never a sample. `Weights` maps PEFT's tensor
names (``base_model.model....lora_A.weight``) to float32 arrays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Weights = Mapping[str, FloatArray]


@dataclass(frozen=True)
class TaskProfile:
    """What a client says about its data: one entry per local task, never a sample.

    Attributes:
        client: the client's id.
        centroids: float32, shape (local tasks, d): mean embedding of each local task's prompts.
        counts: number of training samples in each local task; all positive.
        spreads: mean squared distance of each local task's embeddings to its centroid.
    """

    client: int
    centroids: FloatArray
    counts: tuple[int, ...]
    spreads: tuple[float, ...]


@dataclass(frozen=True)
class ProfileOrder:
    """Ask a client for its profile.

    `n_local` is the number of local tasks to find; None: the client counts the distinct true tasks
    of its rows, or takes 2 where rows name no task.
    """

    n_local: int | None


@dataclass(frozen=True)
class TrainOrder:
    """One adapter that a client is asked to train.

    Attributes:
        adapter: the adapter to start from, a key of `ClientTask.adapters`.
        local_task: train on this local task's samples; None for all of the client's samples.
        steps: number of optimiser steps.
    """

    adapter: str
    local_task: int | None
    steps: int


@dataclass(frozen=True)
class ClientTask:
    """What the server asks of one client in one round.

    Attributes:
        client: the client's id.
        round: 1 to the number of rounds; 0 before the first.
        profile: set when the client is to profile its data.
        train: what to train; the order is the slot of `Update`.
        adapters: the adapters that `train` starts from.
        lr: this round's learning rate.
    """

    client: int
    round: int
    profile: ProfileOrder | None = None
    train: tuple[TrainOrder, ...] = ()
    adapters: Mapping[str, Weights] = field(default_factory=dict)
    lr: float = 0.0


@dataclass(frozen=True)
class Update:
    """One trained adapter.

    Attributes:
        slot: which of the task's train orders it answers.
        weights: the trained adapter.
        samples: number of samples it stands for: its weight in a mean.
        loss: mean training loss over the steps.
        tokens: number of tokens trained on.
    """

    slot: int
    weights: Weights
    samples: int
    loss: float
    tokens: int


@dataclass(frozen=True)
class ClientReply:
    """A client's answer: its profile, or what it trained."""

    client: int
    round: int
    profile: TaskProfile | None = None
    updates: tuple[Update, ...] = ()
