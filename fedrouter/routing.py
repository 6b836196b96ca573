"""Prompts -> global tasks, by the nearest centroid (step 3 of the method)."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load

from fedrouter.atomic import write_json, write_tensors
from fedrouter.clustering import squared_distances
from fedrouter.errors import AdapterError, ModelError, RunError
from fedrouter.messages import FloatArray, Places

ROUNDING = 1e-14  # distances that differ by less, relative to the largest, are equal
TENSORS, HEADER = "router.safetensors", "router.json"


class Header(BaseModel):
    """What ``router.json`` holds. A task's name is a folder's name too: no separators in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1, 2]  # 2: with a space
    tasks: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], ...],
        Field(min_length=1),
    ]
    spread: float = Field(ge=0, allow_inf_nan=False)
    base_fingerprint: str
    sha256: str

    @field_validator("tasks")
    @classmethod
    def _unique(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tasks)) < len(tasks):
            raise ValueError("a name stands there twice")
        return tasks


@dataclass(frozen=True, eq=False)
class Routes:
    """Where n prompts go.

    Attributes:
        tasks: the nearest allowed task of each prompt.
        confidence: float64, shape (n,), in [0, 1]: see `Router.route`.
        distances: float64, shape (n, T): Euclidean distance to every task, allowed or not.
    """

    tasks: tuple[str, ...]
    confidence: NDArray[np.float64]
    distances: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Router:
    """The global tasks and where their prompts lie.

    Attributes:
        tasks: names of the T tasks.
        centroids: float32, shape (T, d): g_t.
        spread: mean squared distance of the training prompts to their local task's centroid.
        base_fingerprint: the base model whose embeddings the centroids are.
        space: float32, shape (d, r): the map to where distances are taken; None: between the
            embeddings as they are.
    """

    tasks: tuple[str, ...]
    centroids: FloatArray
    spread: float
    base_fingerprint: str
    space: FloatArray | None = None

    @property
    def places(self) -> Places:
        """Where the tasks lie."""
        return Places(self.centroids, self.space)

    def route(
        self, embeddings: NDArray[np.floating[Any]], allowed: Sequence[str] | None = None
    ) -> Routes:
        """Send each prompt to argmin_t ||e(x) - g_t|| over the allowed tasks.

        The confidence is the posterior probability of the chosen task if every allowed task were
        an equally likely round Gaussian of variance `spread`: softmax_t(-||e(x) - g_t||^2 /
        (2 spread)). Embeddings vary less freely than that, so it is on the confident side.

        Args:
            embeddings: shape (n, d).
            allowed: names of the tasks to choose from; all of them when None.

        Raises:
            AdapterError: `allowed` is empty or names an unknown task.
            ModelError: the embeddings are not of this router's base model, or not finite.
        """
        self._check(embeddings)
        columns = np.array(self._columns(self.tasks if allowed is None else allowed))
        squared = squared_distances(embeddings, self.centroids, self.space)
        offered = squared[:, columns]
        chosen = columns[offered.argmin(axis=1)]
        excess = offered - offered.min(axis=1, keepdims=True)
        excess[excess <= ROUNDING * offered.max(axis=1, keepdims=True)] = 0
        with np.errstate(over="ignore"):  # a spread of zero: certain, except between equals
            odds = np.exp(-excess / max(2 * self.spread, np.finfo(np.float64).tiny))
        return Routes(
            tasks=tuple(self.tasks[t] for t in chosen),
            confidence=1 / odds.sum(axis=1),
            distances=np.sqrt(squared),
        )

    def _check(self, embeddings: NDArray[np.floating[Any]]) -> None:
        dimension = self.centroids.shape[1]
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

    def _columns(self, names: Sequence[str]) -> list[int]:
        """Indices of tasks, in the router's order."""
        if not names:
            raise AdapterError(f"no task is allowed; allow some of {', '.join(self.tasks)}")
        for name in names:
            if name not in self.tasks:
                near = get_close_matches(name, self.tasks, n=1, cutoff=0)[0]
                raise AdapterError(f"there is no task {name!r}; did you mean {near!r}?")
        return [t for t, name in enumerate(self.tasks) if name in names]

    def save(self, folder: Path) -> None:
        """Write ``router.safetensors`` and then ``router.json``, which vouches for both."""
        space = {} if self.space is None else {"space": self.space}
        write_tensors(folder / TENSORS, {"centroids": self.centroids, **space})
        header = Header(
            format=2 if space else 1,
            tasks=self.tasks,
            spread=self.spread,
            base_fingerprint=self.base_fingerprint,
            sha256=sha256((folder / TENSORS).read_bytes()).hexdigest(),
        )
        write_json(folder / HEADER, header.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The router that `save` wrote.

        Raises:
            RunError: it is missing, damaged or of a format that this version does not know.
        """
        try:
            header = Header.model_validate_json((folder / HEADER).read_bytes())
            data = (folder / TENSORS).read_bytes()
            tensors = load(data)
            centroids = tensors["centroids"]
            space = tensors["space"] if header.format > 1 else None
        except FileNotFoundError as error:
            raise RunError(f"{error.filename} is missing; is {folder} a finished run?") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise RunError(f"{folder / HEADER}: {where}: {first['msg']}") from None
        except (OSError, SafetensorError, KeyError) as error:
            raise RunError(f"{folder / TENSORS} holds no readable centroids: {error}") from None
        if sha256(data).hexdigest() != header.sha256:
            raise RunError(
                f"{folder / TENSORS} and {HEADER} do not belong together; copy both again"
            )
        if centroids.ndim != 2 or len(centroids) != len(header.tasks):
            raise RunError(
                f"{folder / TENSORS} has centroids of shape {centroids.shape} for "
                f"{len(header.tasks)} tasks"
            )
        if centroids.dtype != np.float32 or not np.isfinite(centroids).all():
            raise RunError(f"{folder / TENSORS} has centroids that are not finite float32 numbers")
        if space is not None and (
            space.dtype != np.float32
            or space.shape[:1] != centroids.shape[1:]
            or space.ndim != 2
            or not np.isfinite(space).all()
        ):
            raise RunError(f"{folder / TENSORS} has a space that does not fit its centroids")
        return cls(header.tasks, centroids, header.spread, header.base_fingerprint, space)
