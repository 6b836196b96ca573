"""What a finished run says of a prompt: where it is routed, and the response."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Route:
    """The routing decision for a prompt.

    Attributes:
        prompt: the prompt.
        task: the id of the nearest global task.
        confidence: the posterior probability of this task among those to choose from, in [0, 1].
        known: whether the prompt lies within `router.threshold` of a task; if not,
            `router.fallback` decides what answers it.
        distances: the tasks with the prompt's distance to each, in the router's space, the nearest
            first; empty if nothing is routed.

    >>> from fedrouter import Route
    >>> route = Route("Which city is this?", "task-02", confidence=0.97, known=True)
    >>> route.task
    'task-02'
    """

    prompt: str
    task: str
    confidence: float
    known: bool
    distances: tuple[tuple[str, float], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Generation(Route):
    """A routing decision and the generated response.

    Attributes:
        text: the response, without special tokens.

    >>> from fedrouter import Generation
    >>> Generation("2 + 2?", "task-00", confidence=0.9, known=True, text="4").text
    '4'
    """

    text: str = ""
