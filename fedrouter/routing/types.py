"""Types of clients' profiles, of the geometry of tasks, and of routing."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from fedrouter.types import ClientId, FloatArray, Name, SpaceArray

Fallback = Literal["nearest", "base", "average", "mix"]
AdapterMixture = tuple[tuple[str, float], ...]  # names and weights; (): the base model alone
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, eq=False)
class Scatter:
    """A client's scatter matrix around its local centroids, summed over all of its samples.

    Attributes:
        products: float32, shape (r (r + 1) / 2,): the upper triangle, row by row, of the sum of
            z z^T, where z is a sample's projected embedding minus its local task's mean.
        fourth: the sum of |z|^4.
    """

    products: FloatArray
    fourth: float


@dataclass(frozen=True, eq=False)
class Standardization:
    """The map of embeddings to unit vectors: less the mean over all clients' samples, divided by
    the standard deviation of each dimension, divided by the norm.

    A few dimensions of a language model's hidden states have variances far above those of all
    others, and would decide every distance.

    Attributes:
        mean: float32, shape (d,).
        deviation: float32, shape (d,); positive.
    """

    mean: FloatArray
    deviation: FloatArray

    def __call__(self, embeddings: NDArray[np.floating[Any]]) -> FloatArray:
        """Standardized embeddings of unit length, float32, shape (n, d)."""
        scaled = (embeddings.astype(np.float64) - self.mean) / self.deviation
        norms = np.linalg.norm(scaled, axis=1, keepdims=True)
        return np.asarray(scaled / np.where(norms > 0, norms, 1), np.float32)


@dataclass(frozen=True)
class TaskProfile:
    """What a client reports about its data: one entry for each local task, never a sample.

    Attributes:
        client: the client's id.
        centroids: float32, shape (local tasks, d): mean embedding of each local task's prompts.
        counts: number of training samples in each local task; all positive.
        second_moments: mean squared distance of each local task's embeddings to its centroid or, if
            the order has a `TaskGeometry`, to the assigned global centroid in its transformed
            space.
        fourth_moments: mean of the fourth power of that distance.
        names: the true task of each local task, if the order is `GroupByLabel`; otherwise empty.
        tasks: the index of the global task that each local task was assigned to, if the order has a
            `TaskGeometry`; -1 for a new task; otherwise empty.
        scatter: the scatter matrix, if the order asks for it; otherwise None.
        variances: float32, shape (d,): the variance of each dimension over all of the client's
            samples, if the order is `DescribeEmbeddings`; otherwise None.
    """

    client: ClientId
    centroids: FloatArray
    counts: tuple[int, ...]
    second_moments: tuple[float, ...]
    fourth_moments: tuple[float, ...]
    names: tuple[str, ...] = ()
    tasks: tuple[int, ...] = ()
    scatter: Scatter | None = None
    variances: FloatArray | None = None


def _dividing(standardization: Standardization) -> Standardization:
    mean, deviation = standardization.mean, standardization.deviation
    if mean.ndim != 1 or deviation.shape != mean.shape or not (deviation > 0).all():
        raise ValueError("expected a mean and a positive deviation for each dimension")
    return standardization


# A standardization that was read from outside: its parts fit each other.
ReceivedStandardization = Annotated[Standardization, AfterValidator(_dividing)]


@dataclass(frozen=True, eq=False)
class TaskGeometry:
    """Task centroids, the linear transform in which distances are taken, and the in-distribution
    distance statistics that routing needs. A prompt belongs to the task of the nearest centroid.

    Attributes:
        tasks: the T tasks' names, all different.
        centroids: float32, shape (T, d): g_t.
        mean: in-distribution mean of the squared distance of a prompt to its task's centroid,
            estimated for prompts that the centroids were not computed from.
        deviation: standard deviation of that squared distance.
        variance: in-distribution variance of a prompt along one direction.
        standardization: the map of embeddings to the vectors x that centroids are means of; None:
            they are the embeddings themselves.
        space: float32, shape (d, r): distances are taken between x @ space; None: between the
            vectors x as they are.
    """

    tasks: tuple[Name, ...]
    centroids: FloatArray
    mean: NotNegative
    deviation: NotNegative
    variance: NotNegative
    standardization: ReceivedStandardization | None = None
    space: SpaceArray | None = None

    def standardized(self, embeddings: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The vectors among which the centroids lie, shape (n, d)."""
        return embeddings if self.standardization is None else self.standardization(embeddings)


def _consistent(geometry: TaskGeometry) -> TaskGeometry:
    tasks, centroids, space = geometry.tasks, geometry.centroids, geometry.space
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError("expected one or more task names, all different")
    if centroids.ndim != 2 or len(centroids) != len(tasks):
        raise ValueError(
            f"expected {len(tasks)} centroids, got an array of shape {centroids.shape}"
        )
    if space is not None and (space.ndim != 2 or len(space) != centroids.shape[1]):
        raise ValueError(
            f"expected a transform of {centroids.shape[1]} dimensions, got one of shape "
            f"{space.shape}"
        )
    standard = geometry.standardization
    if standard is not None and standard.mean.shape != centroids.shape[1:]:
        raise ValueError(
            f"expected a standardization of {centroids.shape[1]} dimensions, got one of "
            f"{len(standard.mean)}"
        )
    return geometry


# A geometry that was read from outside: its parts fit each other.
ReceivedGeometry = Annotated[TaskGeometry, AfterValidator(_consistent)]


@dataclass(frozen=True)
class RoutingPolicy:
    """Which adapters answer a routed prompt.

    Attributes:
        top_k: number of nearest tasks whose adapters are mixed, weighted by distance.
        fallback: what answers an out-of-distribution prompt instead: "nearest": as for any other;
            "base": the base model alone; "average": the mean of all allowed tasks' adapters; "mix":
            a mixture of the max(2, top_k) nearest.
        threshold: a prompt is out of distribution if its `Routes.ood_score` exceeds this.
    """

    top_k: int = 1
    fallback: Fallback = "nearest"
    threshold: float = 4.0
