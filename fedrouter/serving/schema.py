"""The bodies of requests, as OpenAI's API defines them; unknown fields are ignored."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrouter.data.rows import Message
from fedrouter.errors import RequestError
from fedrouter.inference.conversation import read_conversation
from fedrouter.inference.sampling import Sampling

Body = TypeVar("Body", bound="_Body")
Stop = str | list[str] | None
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class StreamOptions(_Body):
    """`stream_options`: what a stream holds beside the response."""

    include_usage: bool = False


class TextPart(_Body):
    """A part of a message's content; only texts are understood."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """One turn of a conversation."""

    role: str
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class _Generation(_Body):
    """The fields that both kinds of generation share."""

    model: str = "auto"
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, longest: int) -> Sampling:
        """How to generate; greedily unless the request says otherwise.

        Args:
            longest: the largest number of tokens that is allowed, the default.

        Raises:
            RequestError: a value is out of its range.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=min(self.wanted_tokens or longest, longest),
            temperature=0.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(stop),
            logprobs=self.wanted_logprobs,
        )

    @property
    def wanted_tokens(self) -> int | None:
        """The largest number of tokens that the request asks for."""
        return self.max_tokens

    @property
    @abstractmethod
    def wanted_logprobs(self) -> int | None:
        """The number of most probable tokens to report; None: no log probabilities."""


class ChatRequest(_Generation):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """`max_completion_tokens`, of which `max_tokens` is the old name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """As `top_logprobs` says, if `logprobs` is true."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def conversation(self) -> tuple[Message, ...]:
        """The turns, of which the last is the user's.

        Raises:
            DataError: they are no such conversation.
        """
        turns: Sequence[Mapping[str, str]] = [
            {"role": _ROLES.get(one.role, one.role), "content": one.text} for one in self.messages
        ]
        return read_conversation(turns)


_ROLES = {"developer": "system"}  # what OpenAI's newer models call the system's role


class CompletionRequest(_Generation):
    """`POST /v1/completions`: a prompt is an instruction, and is written in the run's template."""

    prompt: str | list[str]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        """As `logprobs` says."""
        return self.logprobs

    @property
    def prompts(self) -> list[str]:
        """The prompts, one or more."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class RouteRequest(_Body):
    """`POST /v1/route`: which tasks these prompts belong to."""

    prompts: Annotated[list[str], Field(min_length=1, max_length=1024)]
    model: str = "auto"


def parse(kind: type[Body], body: bytes) -> Body:
    """The request in a body.

    Raises:
        RequestError: the body is not JSON, or a field has a wrong type or value; the first fault.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        fault = first["msg"][:1].lower() + first["msg"][1:200]
        raise RequestError(f": {fault}" if where else fault, where) from None
