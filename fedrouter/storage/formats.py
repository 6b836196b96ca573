"""The types of `summary.json` and of the records of `metrics.jsonl`, checked when they are read.

A run folder may come from elsewhere; what reads a summary relies on these types.
"""

import json
from functools import cache
from typing import Any, Literal, NotRequired, TypeVar

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's cannot be checked before Python 3.12

Value = TypeVar("Value")
Scores = dict[str, float]


class TaskEntry(TypedDict):
    """A global task of a summary; see `server.summary.task_table`."""

    id: str
    clients: list[int]
    samples: int
    true_tasks: dict[str, int]


class EventEntry(TypedDict):
    """A change of the set of global tasks; see `routing.history.Event`."""

    round: int
    kind: Literal["created", "merged", "removed"]
    task: str
    other: str | None


# The tables `metrics`, `routing` and `bytes`; see `server.summary`.
MetricsTable = TypedDict(
    "MetricsTable",
    {
        "local": Scores | None,
        "global": Scores | None,
        "base": Scores | None,
        "by_task": dict[str, dict[str, Scores]] | None,
    },
)


class RoutingTable(TypedDict):
    """How well the global tasks match the true ones; see `server.summary.routing_table`."""

    accuracy: float | None
    ari: float | None
    nmi: float | None
    train_purity: float | None
    confusion: dict[str, dict[str, int]] | None


class PrivacyEntry(TypedDict):
    """What a run has spent of its privacy budget; see `server.privacy.privacy_table`."""

    epsilon: float
    spent: float
    delta: float
    unit: str
    releases: int
    movement: dict[str, float]
    only_noise: list[str]


class SummaryFile(TypedDict):
    """What `summary.json` holds."""

    strategy: str
    scenario: str
    seed: int
    rounds: int
    clients: int
    base_fingerprint: str
    data: NotRequired[str]
    tasks: list[TaskEntry]
    history: list[EventEntry]
    metrics: MetricsTable
    routing: RoutingTable
    privacy: NotRequired[PrivacyEntry | None]
    bytes: dict[str, int]
    simulated_s: NotRequired[float | None]
    tokens: int
    seconds: dict[str, float]


class MetricsRecord(TypedDict):
    """A line of `metrics.jsonl`; see `server.rounds.RoundRecord`."""

    round: int
    clients: NotRequired[list[int]]
    lr: NotRequired[float]
    loss: NotRequired[float | None]
    losses: NotRequired[dict[str, float]]
    tokens: NotRequired[int]
    tasks: NotRequired[int]
    bytes_up: NotRequired[int]
    bytes_down: NotRequired[int]
    seconds: NotRequired[dict[str, float]]
    failures: NotRequired[list[dict[str, Any]]]
    late: NotRequired[list[int]]
    late_replies: NotRequired[list[dict[str, Any]]]
    simulated_s: NotRequired[float | None]
    evaluation: NotRequired[dict[str, Any]]


_adapter: Any = cache(TypeAdapter)


def parse_json(data: bytes) -> Any:
    """JSON from outside.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_as(kind: type[Value], data: bytes) -> Value:
    """JSON from outside, as a type of this module; fields that the type does not name are kept.

    Raises:
        ValueError: it is no JSON, or of another type; one line names the first fault.
    """
    value: Value = parse_json(data)
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]) from None
    return value
