"""What a server asks of a client's embeddings: which profile the client is to answer with."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedrouter.routing.types import ReceivedGeometry, ReceivedStandardization
from fedrouter.types import FloatArray, Name


@dataclass(frozen=True)
class DescribeEmbeddings:
    """Profile: the mean and the variances of all embeddings of the training prompts, as one local
    task. The client's local tasks stay as they are."""

    kind: Literal["describe_embeddings"] = "describe_embeddings"


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
