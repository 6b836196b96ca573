"""Routing of prompts to the global task with the nearest centroid (paper, step 3)."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from fedrouter.config import ResolvedRouterConfig
from fedrouter.errors import AdapterError, ModelError, RunError
from fedrouter.routing.clustering import squared_distances
from fedrouter.routing.types import AdapterMixture, ReceivedGeometry, RoutingPolicy, TaskGeometry
from fedrouter.serialization import ArrayTable, deserialize, serialize
from fedrouter.storage.atomic import write_json, write_tensors

LEAST = 0.01  # adapters with a smaller weight are left out of a mixture
TINY = np.finfo(np.float64).tiny
ROUNDING = 1e-14  # relative difference below which two distances count as equal
TENSORS, HEADER = "router.safetensors", "router.json"
FORMAT: Literal[5] = 5  # version of the format of these two files


@dataclass(frozen=True)
class RouterFile:
    """What ``router.json`` holds; its arrays are in ``router.safetensors``."""

    format: Literal[5]
    geometry: ReceivedGeometry
    base_fingerprint: str
    sha256: str  # of router.safetensors


@dataclass(frozen=True, eq=False)
class Routes:
    """The routing of n prompts to T tasks.

    Attributes:
        tasks: the nearest allowed task of each prompt.
        probabilities: float64, shape (n, T): the posterior probability of each task, 0 for tasks
            that are not allowed (see `route`).
        mixture_weights: float64, shape (n, T): weights for a mixture of adapters, 0 for tasks that
            are not allowed. Rows sum to 1; they are less peaked than the probabilities.
        distances: float64, shape (n, T): Euclidean distance to each task, allowed or not.
        ood_score: float64, shape (n,): z-score of the squared distance to the nearest task (over
            all tasks) under the in-distribution statistics; an out-of-distribution score.
    """

    tasks: tuple[str, ...]
    probabilities: NDArray[np.float64]
    mixture_weights: NDArray[np.float64]
    distances: NDArray[np.float64]
    ood_score: NDArray[np.float64]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of each prompt's task, shape (n,)."""
        return np.asarray(self.probabilities.max(axis=1, initial=0))


def route(
    geometry: TaskGeometry,
    embeddings: NDArray[np.floating[Any]],
    allowed: Sequence[str] | None = None,
) -> Routes:
    """Route each prompt x to the task argmin_t ||e(x) - g_t|| among the allowed ones.

    The probabilities are posteriors under equally likely isotropic Gaussians with the geometry's
    variance v: softmax_t(-||e(x) - g_t||^2 / (2 v)). The mixture weights are the same softmax with
    the mean squared distance, which is the variance summed over all dimensions, in place of v:
    in many dimensions a prompt between two tasks is many v away from both.

    Args:
        geometry: the tasks' centroids, transform and distance statistics.
        embeddings: shape (n, d), finite.
        allowed: names of the tasks to choose from; None: all.

    Raises:
        AdapterError: `allowed` is empty or names an unknown task.
    """
    columns = np.array(_columns(geometry.tasks, geometry.tasks if allowed is None else allowed))
    points = geometry.standardized(embeddings)
    squared = squared_distances(points, geometry.centroids, geometry.space)
    offered = squared[:, columns]
    nearest = offered.min(axis=1, initial=np.inf)
    excess = offered - nearest[:, None]
    excess[excess <= ROUNDING * offered.max(axis=1, keepdims=True, initial=0)] = 0

    def softmax(variance: float) -> NDArray[np.float64]:
        shares = np.zeros_like(squared)
        with np.errstate(over="ignore"):  # no variance: certain, except between equals
            odds = np.exp(-excess / max(2 * variance, TINY))
        shares[:, columns] = odds / odds.sum(axis=1, keepdims=True)
        return shares

    with np.errstate(over="ignore"):
        ood_score = (squared.min(axis=1) - geometry.mean) / max(geometry.deviation, TINY)
    return Routes(
        tasks=tuple(geometry.tasks[t] for t in columns[excess.argmin(axis=1)]),
        probabilities=softmax(geometry.variance),
        mixture_weights=softmax(geometry.mean),
        distances=np.sqrt(squared),
        ood_score=ood_score,
    )


def policy(settings: ResolvedRouterConfig) -> RoutingPolicy:
    """The routing policy that section `[router]` configures."""
    return RoutingPolicy(settings.top_k, settings.fallback, settings.threshold)


def mixtures(
    geometry: TaskGeometry,
    routes: Routes,
    rule: RoutingPolicy,
    allowed: Sequence[str] | None = None,
) -> list[AdapterMixture]:
    """The mixture of adapters that answers each routed prompt.

    Args:
        geometry: the geometry that the prompts were routed with.
        routes: the result of `route`.
        rule: how many adapters are mixed, and the fallback of out-of-distribution prompts.
        allowed: as for `route`.

    Returns:
        For each prompt, pairs (task, weight) whose weights sum to 1; weights below 0.01 are left
        out. An empty mixture stands for the base model alone.
    """
    columns = _columns(geometry.tasks, geometry.tasks if allowed is None else allowed)
    average = tuple((geometry.tasks[t], 1 / len(columns)) for t in columns)
    known = routes.ood_score <= rule.threshold

    def answer(mixture_weights: NDArray[np.float64], familiar: bool) -> AdapterMixture:
        if familiar or rule.fallback == "nearest":
            return _nearest(geometry.tasks, mixture_weights, rule.top_k)
        if rule.fallback == "mix":
            return _nearest(geometry.tasks, mixture_weights, max(2, rule.top_k))
        return average if rule.fallback == "average" else ()

    return [answer(*row) for row in zip(routes.mixture_weights, known, strict=True)]


def _nearest(
    tasks: Sequence[str], mixture_weights: NDArray[np.float64], top_k: int
) -> AdapterMixture:
    """The closest tasks with their shares."""
    order = np.argsort(-mixture_weights, kind="stable")[:top_k]
    order = order[mixture_weights[order] >= LEAST * mixture_weights[order].sum()]
    shares = mixture_weights[order] / mixture_weights[order].sum()
    return tuple((tasks[t], float(share)) for t, share in zip(order, shares, strict=True))


def _columns(tasks: Sequence[str], names: Sequence[str]) -> list[int]:
    """Indices of the named tasks, in the order of `tasks`."""
    if not names:
        raise AdapterError(f"no task is allowed; allow some of {', '.join(tasks)}")
    for name in names:
        if name not in tasks:
            near = get_close_matches(name, tasks, n=1, cutoff=0)[0]
            raise AdapterError(f"there is no task {name!r}; did you mean {near!r}?")
    return [t for t, name in enumerate(tasks) if name in names]


@dataclass(frozen=True, eq=False)
class Router:
    """Routes prompts to global tasks, by the embeddings of one base model.

    Attributes:
        geometry: the tasks' centroids, transform and distance statistics.
        base_fingerprint: the fingerprint of the base model that computed the embeddings.
    """

    geometry: ReceivedGeometry
    base_fingerprint: str

    def route(
        self, embeddings: NDArray[np.floating[Any]], allowed: Sequence[str] | None = None
    ) -> Routes:
        """As the function `route`, after a check of the embeddings.

        Raises:
            AdapterError: `allowed` is empty or names an unknown task.
            ModelError: the embeddings have another dimension than the centroids, or are not finite.
        """
        dimension = self.geometry.centroids.shape[1]
        if embeddings.ndim != 2 or embeddings.shape[1] != dimension:
            raise ModelError(
                f"embeddings of shape {embeddings.shape} do not fit the router, which takes "
                f"(prompts, {dimension}); use the base model that the run was made with"
            )
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            raise ModelError(
                f"the embedding of prompt {finite.argmin()} (from 0) is not finite; load the base "
                "model with model.dtype = 'float32'"
            )
        return route(self.geometry, embeddings, allowed)

    def save(self, folder: Path) -> None:
        """Write ``router.safetensors``, then ``router.json`` with the checksum of the former."""
        table = ArrayTable()
        serialize(self.geometry, table)
        write_tensors(folder / TENSORS, table.arrays)
        digest = sha256((folder / TENSORS).read_bytes()).hexdigest()
        content = RouterFile(FORMAT, self.geometry, self.base_fingerprint, digest)
        write_json(folder / HEADER, json.loads(serialize(content, ArrayTable())))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the router that `save` wrote.

        Raises:
            RunError: it is missing, damaged, or of another format.
        """
        header, data, arrays = _read(folder)
        try:
            content = deserialize(RouterFile, header, ArrayTable(arrays))
        except ValueError as error:
            raise RunError(f"{folder / HEADER}: {error}; {_remedy(header)}") from None
        if sha256(data).hexdigest() != content.sha256:
            raise RunError(
                f"{folder / TENSORS} and {HEADER} do not belong together; copy both again"
            )
        return cls(content.geometry, content.base_fingerprint)


def _read(folder: Path) -> tuple[bytes, bytes, dict[str, NDArray[Any]]]:
    """The bytes of both files of a router, and its arrays."""
    try:
        header, data = (folder / HEADER).read_bytes(), (folder / TENSORS).read_bytes()
        return header, data, load(data)
    except FileNotFoundError as error:
        raise RunError(f"{error.filename} is missing; is {folder} a finished run?") from None
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder / TENSORS} holds no readable arrays: {error}") from None


def _remedy(header: bytes) -> str:
    """What to do about a header that cannot be read."""
    if re.search(rb'"format": *[1-4]\b', header):
        return "it was written by an earlier fedrouter; start a new run"
    return "restore the file, or start a new run"
