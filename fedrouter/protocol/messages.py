"""All that crosses the wire between the server and a client.

A message holds numbers, names and adapter weights, never a sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from fedrouter.protocol.profile_orders import ProfileOrder
from fedrouter.protocol.serving_rules import Serving
from fedrouter.routing.types import TaskProfile
from fedrouter.secure_aggregation.messages import KeysOrder, SumOrder, SumReply
from fedrouter.types import AdapterWeights, ClientId, LoraMatrices, Name

LocalTask = Annotated[int, Field(ge=0)]  # the index of a local task


@dataclass(frozen=True)
class Comparison:
    """Ask for the losses of several received adapters on the same samples of a local task."""

    local_task: LocalTask
    adapters: tuple[Name, ...]


@dataclass(frozen=True)
class Proximal:
    """Add mu / 2 times the squared distance to the received adapter `toward` to the loss."""

    mu: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    toward: Name


@dataclass(frozen=True)
class FrozenCompanion:
    """Train beside a second, constant adapter: the output of the trained one has the weight
    `weight`, that of the received adapter `adapter` has 1 - weight."""

    adapter: Name
    weight: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class TrainOrder:
    """One adapter that a client is asked to train.

    Training starts from the run's initial adapter, whose tensors are replaced by those of the
    received adapter, and these by those that the client kept under `keep`.

    Attributes:
        adapters: received adapters to choose from, keys of `ClientRequest.adapters`. Of several,
            the client trains the one with the lowest loss on its samples; empty: none.
        steps: optimizer steps for each local task. An order on all of a client's samples takes this
            times the number of the client's local tasks.
        local_task: the local task whose samples are trained on; None: all samples.
        keep: the name under which the client keeps the result for later rounds; None: not kept.
        keep_parts: the matrices that it keeps.
        train_parts: the matrices that are trained; the others are constant.
        send: the matrices that are sent back.
        proximal: an additional term of the loss.
        companion: a second, constant adapter in the forward pass.

    >>> from fedrouter import TrainOrder
    >>> order = TrainOrder(("global",), steps=10, keep="personal", keep_parts="B", send="A")
    >>> order.train_parts, order.local_task
    ('AB', None)
    """

    adapters: tuple[Name, ...]
    steps: Annotated[int, Field(ge=1)]
    local_task: LocalTask | None = None
    keep: Name | None = None
    keep_parts: LoraMatrices = "AB"
    train_parts: LoraMatrices = "AB"
    send: LoraMatrices = "AB"
    proximal: Proximal | None = None
    companion: FrozenCompanion | None = None


Scope = Literal["local", "global", "base"]


@dataclass(frozen=True)
class EvaluateOrder:
    """Ask a client to answer its test rows and to score the answers.

    Attributes:
        serving: how to answer.
        scopes: "local": its own test rows; "global": all test rows, if it has them; "base": all
            test rows that it has, answered by the base model alone.
    """

    serving: Annotated[Serving, Field(discriminator="kind")]
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class ClientRequest:
    """What the server asks of one client in one round, to be done in this order.

    Attributes:
        client: the client's id.
        round: 1 to the number of rounds; 0 before the first; the number of rounds + 1 after the
            last.
        profile: how to profile its data; None: it does not.
        compare: local tasks on which to compare received adapters.
        evaluate: how to evaluate the received and kept adapters before training; None: it does not.
        train: what to train, in the order of `Update.slot`.
        adapters: the adapters that the orders name.
        lr: this round's learning rate.
        sum_order: the client's part in a sum over clients, of which the server sees the sum alone;
            None: the reply is not masked.
    """

    client: ClientId
    round: ClientId
    profile: Annotated[ProfileOrder, Field(discriminator="kind")] | None = None
    compare: tuple[Comparison, ...] = ()
    evaluate: EvaluateOrder | None = None
    train: tuple[TrainOrder, ...] = ()
    adapters: Mapping[Name, AdapterWeights] = field(default_factory=dict)
    lr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    sum_order: Annotated[SumOrder, Field(discriminator="kind")] | None = None


def is_work(request: ClientRequest) -> bool:
    """Whether a request asks for more than the second to fourth exchange of a sum."""
    return request.sum_order is None or isinstance(request.sum_order, KeysOrder)


@dataclass(frozen=True)
class ComparedLosses:
    """The answer to a comparison: mean losses on some samples of a local task.

    Attributes:
        local_task: the local task.
        samples: how many samples.
        base: the loss of the base model alone.
        adapters: adapter -> the loss with it.
    """

    local_task: LocalTask
    samples: int
    base: float
    adapters: Mapping[str, float]


@dataclass(frozen=True)
class Update:
    """One trained adapter.

    Attributes:
        slot: the index of the train order that it answers.
        adapter: the received adapter that it was trained from; None if the order names none.
        weights: the matrices that the order asks for; may be empty. What travels is their movement
            (see `protocol.movement`).
        samples: number of training samples: its weight in a mean.
        loss: mean training loss over the steps.
        tokens: number of tokens trained on.
    """

    slot: int
    adapter: Name | None
    weights: AdapterWeights
    samples: int
    loss: float
    tokens: int


FRACTIONS = ("rouge1", "rouge2", "rougeL", "exact_match")  # scores from 0 to 1


@dataclass(frozen=True)
class LabelScores:
    """Mean scores (those in `FRACTIONS`, and the loss) over `rows` test rows."""

    rows: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationReport:
    """The results of a client's evaluation. A label is a true task's name, or "" for rows that name
    none.

    Attributes:
        scores: scope -> label -> mean scores.
        routed: task -> label -> number of test rows that were routed there, of all that the client
            has; empty if nothing is routed.
        local_tasks: for each local task, label -> number of its training samples; empty if the
            client has no profile.
    """

    scores: Mapping[str, Mapping[str, LabelScores]]
    routed: Mapping[str, Mapping[str, int]]
    local_tasks: tuple[Mapping[str, int], ...]


@dataclass(frozen=True)
class ClientReply:
    """A client's answer to each part of a `ClientRequest`.

    If `changed`, nothing else is set: its rows are not those that its local tasks were computed
    from. If the request has a `sum_order`, only `sum_reply` is set.
    """

    client: ClientId
    round: ClientId
    profile: TaskProfile | None = None
    losses: tuple[ComparedLosses, ...] = ()
    evaluation: EvaluationReport | None = None
    updates: tuple[Update, ...] = ()
    changed: bool = False
    sum_reply: Annotated[SumReply, Field(discriminator="kind")] | None = None


@dataclass(frozen=True)
class Failure:
    """The reason why there is no usable answer from a client; it holds no sample."""

    client: int
    round: int
    reason: str
