"""All that crosses the wire between the server and a client.

A message holds numbers, names and adapter weights, never a sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedrouter.routing.types import RoutingPolicy, TaskGeometry, TaskProfile
from fedrouter.types import AdapterWeights, LoraMatrices


@dataclass(frozen=True)
class ClusterPrompts:
    """Profile: K-means the embeddings of the training prompts into local tasks (paper, step 0).

    Attributes:
        scatter: send the scatter around the local centroids too.
    """

    scatter: bool = False


@dataclass(frozen=True)
class GroupByLabel:
    """Profile: group the samples by the true task that they name (the oracle)."""


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

    geometry: TaskGeometry
    min_samples: int = 1
    scatter: bool = False


@dataclass(frozen=True)
class DetectNewTasks:
    """Profile: cluster the samples, and assign each cluster to the nearest global task or, if it
    lies outside all of them, report it as a new task.

    Attributes:
        geometry: where the global tasks lie.
    """

    geometry: TaskGeometry


@dataclass(frozen=True)
class ReassignByLoss:
    """Profile: assign some of the samples to the task, of the nearest few, whose adapter has the
    lowest loss on them. The client's local tasks stay as they are.

    Attributes:
        geometry: where the global tasks lie.
        adapters: the tasks to choose from, keys of `ClientRequest.adapters`.
        scatter: send the scatter around the local centroids too.
    """

    geometry: TaskGeometry
    adapters: tuple[str, ...]
    scatter: bool = False


OrderWithGeometry = AssignToNearest | DetectNewTasks | ReassignByLoss
ProfileOrder = ClusterPrompts | GroupByLabel | OrderWithGeometry


def asks_scatter(order: ProfileOrder) -> bool:
    """Whether the profile is to have a scatter."""
    return isinstance(order, ClusterPrompts | AssignToNearest | ReassignByLoss) and order.scatter


@dataclass(frozen=True)
class Comparison:
    """Ask for the losses of several received adapters on the same samples of a local task."""

    local_task: int
    adapters: tuple[str, ...]


@dataclass(frozen=True)
class Proximal:
    """Add mu / 2 times the squared distance to the received adapter `toward` to the loss."""

    mu: float
    toward: str


@dataclass(frozen=True)
class FrozenCompanion:
    """Train with a second, constant adapter at work: the trained one counts `weight`, the received
    adapter `adapter` 1 - weight."""

    adapter: str
    weight: float


@dataclass(frozen=True)
class TrainOrder:
    """One adapter that a client is asked to train.

    Training starts from the run's initial adapter, overlaid with the received adapter and then with
    what the client kept under `keep`, tensor by tensor: what is missing in one comes from the one
    before it.

    Attributes:
        adapters: received adapters to choose from, keys of `ClientRequest.adapters`. Of several,
            the client trains the one with the lowest loss on its samples; empty: none.
        steps: optimiser steps for each local task that the samples make up: an order on all of a
            client's samples takes as many times more as the client has local tasks.
        local_task: train on this local task's samples; None: on all of the client's.
        keep: the name under which the client keeps the result for later rounds; None: it does not.
        keep_parts: the matrices that it keeps.
        train_parts: the matrices that are trained; the others stay as they are.
        send: the matrices that are sent back.
        proximal, beside: see there.
    """

    adapters: tuple[str, ...]
    steps: int
    local_task: int | None = None
    keep: str | None = None
    keep_parts: LoraMatrices = "AB"
    train_parts: LoraMatrices = "AB"
    send: LoraMatrices = "AB"
    proximal: Proximal | None = None
    companion: FrozenCompanion | None = None


@dataclass(frozen=True)
class SingleAdapter:
    """Answer every prompt with one adapter: the initial one, overlaid with the received `adapter`
    and with what the client kept under `keep` (either may be None)."""

    adapter: str | None = None
    keep: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return () if self.adapter is None else (self.adapter,)


@dataclass(frozen=True)
class RouteByTask:
    """Answer a prompt with the adapter of the task whose centroid is nearest.

    Attributes:
        places: where the tasks lie; their names are keys of the received adapters.
        own: the client's own tasks: the choice in scope `local`.
        policy: how many of them answer, and what does where none is near.
    """

    geometry: TaskGeometry
    own: tuple[str, ...]
    policy: RoutingPolicy = field(default_factory=RoutingPolicy)

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return self.geometry.tasks


@dataclass(frozen=True)
class TrueTask:
    """Answer a prompt with the adapter of its true task (the oracle): true name -> adapter."""

    adapters: Mapping[str, str]

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return tuple(sorted(set(self.adapters.values())))


@dataclass(frozen=True)
class InstanceMixture:
    """Answer with a mix of the kept and the received adapter that depends on the prompt (FedDPA).

    The kept adapter's weight is `scale` times the mean cosine between the prompt and `samples`
    random training prompts of the client, by the last token's hidden state.
    """

    adapter: str
    keep: str
    scale: float
    samples: int

    @property
    def needs(self) -> tuple[str, ...]:
        """The adapters that the client must receive."""
        return (self.adapter,)


@dataclass(frozen=True)
class LowestLoss:
    """Answer with the received adapter that has the lowest loss on the client's training data."""

    adapters: tuple[str, ...]

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
        scopes: "local": its own test rows; "global": all test rows, where it has them; "base": the
            widest of the two, answered by the base model alone.
    """

    serving: Serving
    scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class ClientRequest:
    """What the server asks of one client in one round, to be done in this order.

    Attributes:
        client: the client's id.
        round: 1 to the number of rounds; 0 before the first; the number of rounds + 1 after the
            last.
        profile: set when the client is to profile its data.
        compare: local tasks on which to compare received adapters.
        evaluate: set when it is to evaluate what it receives and has kept, before training.
        train: what to train; the order is the slot of `Update`.
        adapters: the adapters that the orders name.
        lr: this round's learning rate.
    """

    client: int
    round: int
    profile: ProfileOrder | None = None
    compare: tuple[Comparison, ...] = ()
    evaluate: EvaluateOrder | None = None
    train: tuple[TrainOrder, ...] = ()
    adapters: Mapping[str, AdapterWeights] = field(default_factory=dict)
    lr: float = 0.0


@dataclass(frozen=True)
class ComparedLosses:
    """The answer to a comparison: mean losses on some samples of a local task.

    Attributes:
        local_task: the local task.
        samples: how many samples.
        base: the loss of the base model alone.
        adapters: adapter -> the loss with it.
    """

    local_task: int
    samples: int
    base: float
    adapters: Mapping[str, float]


@dataclass(frozen=True)
class Update:
    """One trained adapter.

    Attributes:
        slot: which of the task's train orders it answers.
        adapter: the received adapter it was trained from; None where the order names none.
        weights: the matrices that the order asks to send; may be empty.
        samples: number of samples it stands for: its weight in a mean.
        loss: mean training loss over the steps.
        tokens: number of tokens trained on.
    """

    slot: int
    adapter: str | None
    weights: AdapterWeights
    samples: int
    loss: float
    tokens: int


@dataclass(frozen=True)
class LabelScores:
    """Mean scores (rouge1, rouge2, rougeL, exact_match, loss) over `rows` test rows."""

    rows: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationReport:
    """What a client's evaluation gave. A label is a true task's name, "" where rows name none.

    Attributes:
        scores: scope -> label -> mean scores.
        routed: task -> label -> number of all test rows (of its own, where it has no others) that
            the router sent there; empty where nothing is routed.
        found: for each local task, label -> number of its training samples; empty without profile.
    """

    scores: Mapping[str, Mapping[str, LabelScores]]
    routed: Mapping[str, Mapping[str, int]]
    found: tuple[Mapping[str, int], ...]


@dataclass(frozen=True)
class ClientReply:
    """A client's answer: what of profile, comparisons, evaluation and training it was asked for.

    Or `changed` and nothing else: its rows are not those that it found its local tasks in.
    """

    client: int
    round: int
    profile: TaskProfile | None = None
    losses: tuple[ComparedLosses, ...] = ()
    evaluation: EvaluationReport | None = None
    updates: tuple[Update, ...] = ()
    changed: bool = False


@dataclass(frozen=True)
class Failure:
    """No usable answer from a client, and why; the reason holds no sample."""

    client: int
    round: int
    reason: str
