"""The sections `[federation]`, `[training]` and `[engine]`."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fedrouter.config.sections.base import Count, Positive, Section
from fedrouter.config.sections.devices import DeviceClass

SHARE_TOLERANCE = 1e-3  # so that three shares of 0.333 are allowed


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError("should be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'")
    return name


class FederationConfig(Section):
    """Clients and rounds."""

    clients: Count = Field(default=8, description="number of clients")
    rounds: Count = Field(default=25, description="number of rounds")
    fraction: float = Field(
        default=1.0, gt=0, le=1, description="share of the clients asked in a round"
    )
    min_clients: Count = Field(
        default=1,
        description="at least so many are asked in a round, and waited for beyond its deadline",
    )
    over_selection: float = Field(
        default=1.0,
        ge=1,
        description="a round asks this many times the clients that it needs, and closes when as "
        "many as it needs have replied",
    )
    deadline_s: Positive | None = Field(
        default=None,
        description="seconds after which a round closes if min_clients have replied; unset: all "
        "clients are waited for, each at most timeout_s",
    )
    late: Literal["next", "drop"] = Field(
        default="next",
        description='replies that come after their round was closed: "next": they count in the '
        "round in which they arrive, scaled by 1 / sqrt(1 + staleness) (FedBuff); "
        '"drop": they do not count',
    )
    equal_time: bool = Field(
        default=False,
        description="a client that is slower than the median trains fewer steps, in proportion to "
        "its measured speed; updates are then normalized by their steps (FedNova)",
    )
    devices: Annotated[tuple[DeviceClass, ...], Field(strict=False)] = Field(
        default=(),
        description="classes of simulated devices, a list of tables whose shares add up to 1: time "
        "is simulated (docs/devices.md); unset: time is not considered in one process",
    )
    wait_s: Positive = Field(
        default=300.0,
        description="longest wait for clients to come online, in seconds: for all of them before "
        "the first round, for min_clients later; then a round goes on with those that are there",
    )
    timeout_s: Positive = Field(
        default=3600.0, description="longest wait for a client's reply, in seconds"
    )
    transport: Literal["float32", "float16", "int8", "int4"] = Field(
        default="float16",
        description='"float32", "float16", "int8" or "int4": dtype in which adapters travel, as '
        "differences to adapters that server and client both have; adapters sent only for "
        "comparison always use int8, those only for evaluation at least float16",
    )
    error_feedback: bool = Field(
        default=False,
        description="a client adds what the rounding of an update to int4 lost to its next update "
        "of the same adapter",
    )
    budget_mb: Positive | None = Field(
        default=None,
        description="megabytes (10^6) that all rounds and profiles may send, in both directions "
        "together: the run ends before a round that would exceed it; the final evaluation is not "
        "counted; unset: no limit",
    )
    budget_s: Positive | None = Field(
        default=None,
        description="simulated seconds after which no further round begins; needs devices; unset: "
        "no limit",
    )
    ranks: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None,
        description="ranks of the clients' adapters, at most adapter.rank: client k has the rank "
        "k modulo the length of this list; a node's own --node-config may say another; unset: "
        "adapter.rank for all",
    )

    mixed_quantization: bool = Field(
        default=False,
        description="true: a node may hold the base model with another model.quantization than the "
        "server; the weights that quantization replaces are then not compared",
    )

    def rank(self, client: int) -> int | None:
        """The rank of a client's adapters; None: that of the run."""
        return None if self.ranks is None else self.ranks[client % len(self.ranks)]

    @property
    def kept_components(self) -> str:
        """The key by which something refers to the components of adapters of an earlier round;
        "" if none does."""
        if self.late == "next" and (self.deadline_s is not None or self.over_selection > 1):
            return "federation.late = 'next'"
        rounded = self.transport == "int4"
        return "federation.error_feedback = true" if rounded and self.error_feedback else ""

    @property
    def timed(self) -> tuple[str, ...]:
        """The keys that are set and depend on how long clients take."""
        given = {
            "deadline_s": self.deadline_s is not None,
            "over_selection": self.over_selection > 1,
            "equal_time": self.equal_time,
        }
        return tuple(f"federation.{key}" for key, is_set in given.items() if is_set)

    @model_validator(mode="after")
    def _possible_devices(self) -> Self:
        total = sum(one.share for one in self.devices)
        if self.devices and abs(total - 1) > SHARE_TOLERANCE:
            raise ValueError(f"the shares of federation.devices should add up to 1, got {total:g}")
        if self.budget_s is not None and not self.devices:
            raise ValueError("federation.budget_s needs federation.devices, which simulate time")
        return self

    @model_validator(mode="after")
    def _enough_clients(self) -> Self:
        if self.min_clients > self.clients:
            raise ValueError(
                f"federation.min_clients = {self.min_clients} should be at most "
                f"federation.clients = {self.clients}"
            )
        return self


class TrainingConfig(Section):
    """Local training: AdamW, fresh each round, at a rate that is constant within a round."""

    steps: Count = Field(default=10, description="optimizer steps per local task and round")
    batch_size: Count = Field(default=16, description="rows per step")
    lr: Positive = Field(default=5e-4, description="rate in the first round")
    lr_min: float = Field(
        default=1e-5, ge=0, description="rate in the last round; a cosine in between"
    )
    max_grad_norm: Positive = Field(
        default=1.0, description="each adapter's gradient is clipped to this"
    )

    @model_validator(mode="after")
    def _falling_rate(self) -> Self:
        if self.lr_min > self.lr:
            raise ValueError(
                f"training.lr_min = {self.lr_min} should be at most training.lr = {self.lr}"
            )
        return self


class EngineConfig(Section):
    """Where clients run."""

    name: Literal["inprocess", "flower"] = Field(
        default="inprocess",
        description='"inprocess": all clients in this process, their training fused; "flower": '
        "Flower's simulation, clients in processes of their own",
    )
    fuse: Literal["auto"] | Count = Field(
        default="auto",
        description="adapters trained in one pass; a run stores the number that auto stands for",
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto",
        description="true: training keeps only the inputs of layers and computes the rest again in "
        "the backward pass, with the same results; auto: if the activations of one row of "
        "model.max_length tokens exceed a quarter of the memory of the GPU or, on a CPU, an eighth "
        "of that of the machine or container, or 1 GiB",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description='"cpu", "cuda", "cuda:N", "mps"; auto: a GPU where there is one'
    )
