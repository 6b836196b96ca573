"""What clients and the server tell each other about where tasks lie, and how prompts are routed."""

from dataclasses import dataclass
from typing import Literal

from fedrouter.types import FloatArray

Fallback = Literal["nearest", "base", "average", "mix"]
AdapterMixture = tuple[
    tuple[str, float], ...
]  # adapters by name, with weights; (): the base model alone


@dataclass(frozen=True, eq=False)
class Scatter:
    """How a client's samples lie around their local task's centroid, added up over them.

    Attributes:
        products: float32, shape (r (r + 1) / 2,): the upper triangle, row by row, of the sum of
            z z^T, z being a sample's projected embedding less its local task's mean.
        fourth: the sum of |z|^4.
    """

    products: FloatArray
    fourth: float


@dataclass(frozen=True)
class TaskProfile:
    """What a client says about its data: one entry per local task, never a sample.

    Attributes:
        client: the client's id.
        centroids: float32, shape (local tasks, d): mean embedding of each local task's prompts.
        counts: number of training samples in each local task; all positive.
        spreads: mean squared distance of each local task's embeddings to its centroid; where the
            server sent places, to the nearest of those, there.
        fourths: mean of the fourth power of that distance.
        names: the true task's name of each local task, where the server asked for them (the
            oracle); else empty.
        tasks: the global task of each local task, where the server sent their centroids, -1: a new
            one; else empty.
        scatter: where the server asked for it.
    """

    client: int
    centroids: FloatArray
    counts: tuple[int, ...]
    second_moments: tuple[float, ...]
    fourth_moments: tuple[float, ...]
    names: tuple[str, ...] = ()
    tasks: tuple[int, ...] = ()
    scatter: Scatter | None = None


@dataclass(frozen=True, eq=False)
class TaskGeometry:
    """Where the global tasks lie: a prompt is of the one with the nearest centroid.

    Attributes:
        tasks: the T tasks' names.
        centroids: float32, shape (T, d): g_t.
        mean: mean squared distance of a task's prompts to its centroid; of prompts that were not
            used to find it.
        deviation: the standard deviation of that squared distance.
        variance: of a task's prompts along one direction.
        space: float32, shape (d, r): maps embeddings to where distances are taken; None: they are
            taken between the embeddings as they are.
    """

    tasks: tuple[str, ...]
    centroids: FloatArray
    mean: float
    deviation: float
    variance: float
    space: FloatArray | None = None


@dataclass(frozen=True)
class RoutingPolicy:
    """What answers a routed prompt.

    Attributes:
        top_k: a mix of so many nearest tasks' adapters.
        fallback: what answers a prompt from outside every known task instead: "nearest": nothing
            else; "base": the base model alone; "average": the mean of all allowed tasks' adapters;
            "mix": a mix of the two nearest, or of `top_k` where that is more.
        threshold: a prompt is from outside where it is stranger (`routing.Routes`) than this.
    """

    top_k: int = 1
    fallback: Fallback = "nearest"
    threshold: float = 4.0
