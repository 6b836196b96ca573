"""What answers requests behind the API: this process's engine, or another server."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from fedrouter.inference.types import Route
from fedrouter.serving.metrics import Metrics
from fedrouter.serving.responses import Json
from fedrouter.serving.schema import ChatRequest, CompletionRequest


class Backend(Protocol):
    """Answers the requests of the API.

    Attributes:
        metrics: what it counts.
    """

    metrics: Metrics

    def cards(self) -> list[Json]:
        """The models that it has."""

    async def health(self) -> Json:
        """That it answers; raises `ServingError` if it does not."""

    async def route(self, prompts: list[str]) -> list[Route]:
        """The router's decision for each prompt."""

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """The answer to a chat."""

    async def complete(self, request: Request, body: CompletionRequest) -> Response:
        """The answer to a completion."""

    async def close(self) -> None:
        """End what it has begun."""
