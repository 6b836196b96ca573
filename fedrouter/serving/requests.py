"""What the engine is asked to do, and what it tells while it does it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedrouter.data.rows import Message
from fedrouter.errors import FedRouterError
from fedrouter.inference.sampling import Sampling, TokenLogprob
from fedrouter.inference.types import Route
from fedrouter.routing.types import AdapterMixture


class ServingError(FedRouterError):
    """A request that is not answered.

    Attributes:
        status: the HTTP status code.
        retry_after_s: when to try again, in seconds; None: there is no point.
    """

    def __init__(self, message: str, status: int, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


def unknown_model(name: str) -> ServingError:
    """What a request for a model that is not there is answered, in vLLM's words."""
    return ServingError(f"The model `{name[:100]}` does not exist.", 404)


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt to answer.

    Attributes:
        prompt: an instruction, or a conversation whose last turn is the user's.
        sampling: how to generate.
        task: the task whose adapter answers; "": the base model alone; None: the router decides.
        n: number of responses.
    """

    prompt: str | Sequence[Message]
    sampling: Sampling
    task: str | None = None
    n: int = 1


@dataclass(frozen=True)
class Started:
    """The prompt has been read.

    Attributes:
        route: the router's decision; None: the base model was asked for.
        mixture: the adapters that answer, with weights; empty: the base model alone.
        prompt_tokens: the prompt's number of tokens.
        round: the round of the run whose adapters and router these are.
    """

    route: Route | None
    mixture: AdapterMixture
    prompt_tokens: int
    round: int


@dataclass(frozen=True)
class Chunk:
    """Another part of a response.

    Attributes:
        index: which of the `n` responses.
        text: new text; may be empty.
        tokens: number of new tokens.
        logprobs: of the new tokens, if they are wanted.
        finish_reason: "stop" or "length" with the last part of this response, else None.
    """

    index: int
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True)
class Failed:
    """The request is not answered any further."""

    error: ServingError


Event = Started | Chunk | Failed


@dataclass(eq=False)
class Ticket:
    """A request in the engine's hands.

    Attributes:
        request: the request.
        listener: called in the engine's thread with each event; must not block.
        deadline: time on the monotonic clock at which it is given up.
    """

    request: GenerationRequest
    listener: Callable[[Event], None] = field(repr=False)
    deadline: float
