"""All that crosses the wire between the server and a client.

A message holds numbers, names and adapter weights, never a sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from fedrouter.routing.types import (
    ReceivedGeometry,
    ReceivedStandardization,
    RoutingPolicy,
    TaskProfile,
)
from fedrouter.secure_aggregation.messages import KeysOrder, SumOrder, SumReply
from fedrouter.types import AdapterWeights, ClientId, FloatArray, LoraMatrices, Name


@dataclass(frozen=True)
class DescribeEmbeddings:
    """Profile: the mean and the variances of all embeddings of the training prompts, as one local
    task. The client's local tasks stay as they are."""

    kind: Literal["describe_embeddings"] = "describe_embeddings"


LocalTask = Annotated[int, Field(ge=0)]  # the index of a local task


@dataclass(frozen=True)
class ClusterPrompts:
    """Profile: K-means the embeddings of the training prompts into local tasks (paper, step 0).

    Attributes:
        standardization: of the embeddings; None: they are clustered as they are.
    """

    standardization: ReceivedStandardization | None = None
    kind: Literal["cluster_prompts"] = "cluster_prompts"


@dataclass(frozen=True, eq=False)
class AssignToStarts:
    """Profile: the client's part of one Lloyd iteration of K-means over all clients, from several
    starts: for each start, the samples' means by nearest centroid.

    A local task is a nonempty cluster of a start; its task is the index of the centroid among those
    of all starts. The client's local tasks stay as they are.

    Attributes:
        starts: for each start its centroids, shape (T, d).
        standardization: as in `ClusterPrompts`.
    """

    starts: tuple[FloatArray, ...]
    standardization: ReceivedStandardization | None = None
    kind: Literal["assign_to_starts"] = "assign_to_starts"


@dataclass(frozen=True)
class GroupByLabel:
    """Profile: group the samples by the true task that they name (the oracle)."""

    kind: Literal["group_by_label"] = "group_by_label"


@dataclass(frozen=True)
class AssignToNearest:
    """Profile: assign each sample to the nearest global task among those that the client keeps.

    A client keeps its `n_local` most frequent tasks. If n_local is "auto", it keeps every task of
    which it has at least min(`min_samples`, n / 8) of its n samples.

    Attributes:
        geometry: where the global tasks lie.
        min_samples: see above.
        scatter: send the scatter around the local centroids too.
    """

    geometry: ReceivedGeometry
    min_samples: Annotated[int, Field(ge=1)] = 1
    scatter: bool = False
    kind: Literal["assign_to_nearest"] = "assign_to_nearest"


@dataclass(frozen=True)
class DetectNewTasks:
    """Profile: cluster the samples, and assign each cluster to the nearest global task or, if it
    lies outside all of them, report it as a new task.

    Attributes:
        geometry: where the global tasks lie.
    """

    geometry: ReceivedGeometry
    kind: Literal["detect_new_tasks"] = "detect_new_tasks"


@dataclass(frozen=True)
class ReassignByLoss:
    """Profile: assign some of the samples to the task, of the nearest few, whose adapter has the
    lowest loss on them. The client's local tasks stay as they are.

    Attributes:
        geometry: where the global tasks lie.
        adapters: the tasks to choose from, keys of `ClientRequest.adapters`.
        scatter: send the scatter around the local centroids too.
    """

    geometry: ReceivedGeometry
    adapters: tuple[Name, ...]
    scatter: bool = False
    kind: Literal["reassign_by_loss"] = "reassign_by_loss"


OrderWithGeometry = AssignToNearest | DetectNewTasks | ReassignByLoss
ProfileOrder = (
    DescribeEmbeddings | ClusterPrompts | AssignToStarts | GroupByLabel | OrderWithGeometry
)


def asks_scatter(order: ProfileOrder) -> bool:
    """Whether the profile is to have a scatter."""
    return isinstance(order, AssignToNearest | ReassignByLoss) and order.scatter


def settles_local_tasks(order: ProfileOrder) -> bool:
    """Whether the local tasks of the profile become the client's."""
    return not isinstance(order, DescribeEmbeddings | AssignToStarts | ReassignByLoss)


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


@dataclass(frozen=True)
class SingleAdapter:
    """Answer every prompt with one adapter: the initial one, overlaid with the received `adapter`
    and with what the client kept under `keep` (either may be None).

    >>> from fedrouter import SingleAdapter
    >>> SingleAdapter("global", keep="personal").needs
    ('global',)
    """

    adapter: Name | None = None
    keep: Name | None = None
    kind: Literal["single_adapter"] = "single_adapter"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return () if self.adapter is None else (self.adapter,)


@dataclass(frozen=True)
class RouteByTask:
    """Answer a prompt with the adapter of the task whose centroid is nearest.

    Attributes:
        geometry: where the tasks lie; their names are keys of the received adapters.
        own: the client's own tasks, the only ones offered in scope "local".
        policy: how many adapters are mixed, and what answers an out-of-distribution prompt.
    """

    geometry: ReceivedGeometry
    own: tuple[Name, ...]
    policy: RoutingPolicy = field(default_factory=RoutingPolicy)
    kind: Literal["route_by_task"] = "route_by_task"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return self.geometry.tasks


@dataclass(frozen=True)
class TrueTask:
    """Answer a prompt with the adapter of its true task (the oracle): true name -> adapter."""

    adapters: Mapping[str, Name]
    kind: Literal["true_task"] = "true_task"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return tuple(sorted(set(self.adapters.values())))


@dataclass(frozen=True)
class InstanceMixture:
    """Answer with a mixture of the kept and the received adapter that depends on the prompt
    (FedDPA).

    The kept adapter's weight is `scale` times the mean cosine between the prompt and `samples`
    random training prompts of the client, by the last token's hidden state.
    """

    adapter: Name
    keep: Name
    scale: Annotated[float, Field(ge=0, le=1)]
    samples: Annotated[int, Field(ge=1)]
    kind: Literal["instance_mixture"] = "instance_mixture"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return (self.adapter,)


@dataclass(frozen=True)
class LowestLoss:
    """Answer with the received adapter that has the lowest loss on the client's training data."""

    adapters: tuple[Name, ...]
    kind: Literal["lowest_loss"] = "lowest_loss"

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return self.adapters


Serving = SingleAdapter | RouteByTask | TrueTask | InstanceMixture | LowestLoss
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
