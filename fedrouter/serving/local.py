"""Answers by this process's engine."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fedrouter.data.rows import Message
from fedrouter.errors import RequestError
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.inference.types import Route
from fedrouter.serving.decision import route_prompts
from fedrouter.serving.engine import Engine
from fedrouter.serving.metrics import Metrics
from fedrouter.serving.names import ModelNames
from fedrouter.serving.requests import (
    Chunk,
    Event,
    Failed,
    GenerationRequest,
    ServingError,
    Started,
)
from fedrouter.serving.responses import (
    Choice,
    Json,
    Shape,
    error_body,
    routing_body,
    routing_headers,
    usage,
)
from fedrouter.serving.schema import ChatRequest, CompletionRequest

MAX_CHOICES = 16  # responses to one request


class LocalBackend:
    """Answers requests by an engine.

    Args:
        engine: generates the answers.
        folder: the run folder.
        max_tokens: the largest number of tokens of an answer, and the default.

    Attributes:
        metrics: what it counts.
    """

    def __init__(self, engine: Engine, folder: Path, max_tokens: int) -> None:
        self.metrics = Metrics(
            lambda: engine.running, lambda: engine.waiting, lambda: engine.model.round
        )
        self._engine = engine
        self._folder = folder
        self._max_tokens = max_tokens
        self._created = int(time.time())

    @property
    def model(self) -> RoutedModel:
        """The run that answers new requests."""
        return self._engine.model

    @property
    def names(self) -> ModelNames:
        """The names of its models."""
        return ModelNames.of(self.model, self._folder)

    def cards(self) -> list[Json]:
        """The run, its tasks and the base model."""
        return self.names.cards(self._created, self.model.base.positions)

    async def health(self) -> Json:
        """That the engine answers, and how busy it is."""
        return {
            "status": "ok",
            "round": self.model.round,
            "running": self._engine.running,
            "waiting": self._engine.waiting,
        }

    async def route(self, prompts: list[str]) -> list[Route]:
        """The router's decision for each prompt."""
        return await route_prompts(self.model, prompts)

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """The answer to a chat."""
        return await self._answer(request, body, [body.conversation()], chat=True)

    async def complete(self, request: Request, body: CompletionRequest) -> Response:
        """The answers to the prompts of a completion."""
        if not body.prompts or any(not prompt.strip() for prompt in body.prompts):
            raise RequestError("should be one or more texts, none of them empty", "prompt")
        return await self._answer(request, body, body.prompts, chat=False)

    async def close(self) -> None:
        """End the engine."""
        await asyncio.to_thread(self._engine.close)

    async def _answer(
        self,
        request: Request,
        body: ChatRequest | CompletionRequest,
        prompts: Sequence[str | Sequence[Message]],
        *,
        chat: bool,
    ) -> Response:
        task, n = self.names.task(body.model), body.n or 1
        if n * len(prompts) > MAX_CHOICES:
            raise RequestError(f"should be at most {MAX_CHOICES} responses in all", "n")
        requests = [self._request(body, prompt, task, n) for prompt in prompts]
        shape = Shape(
            chat,
            body.model,
            self.model.base.fingerprint,
            self.model.base.prompts.token_text,
            body.wanted_logprobs is not None,
        )
        answer = _Answer(self._engine, self.metrics, requests, forced=task is not None)
        started = await _unless_gone(request, answer.start())
        headers = routing_headers(started[0])
        if body.stream:
            stream = answer.stream(shape, started, body.include_usage, chat=chat)
            return StreamingResponse(stream, headers=headers, media_type="text/event-stream")
        whole = await _unless_gone(request, answer.whole(shape, started))
        return JSONResponse(whole, headers=headers)

    def _request(
        self, body: ChatRequest | CompletionRequest, prompt: Any, task: str | None, n: int
    ) -> GenerationRequest:
        """The request for a prompt, if it leaves room for an answer.

        Raises:
            RequestError: the prompt and the tokens asked for are longer than the base model's
                context.
        """
        base = self.model.base
        longest = min(base.positions, base.prompts.max_length + self._max_tokens)
        length = base.prompts.length(prompt)
        room = longest - length
        if length > base.prompts.max_length or room < 1:
            context = min(base.prompts.max_length, longest - 1)
            raise RequestError(
                f"has {length} tokens with its template; this run takes prompts of {context}",
                "messages" if isinstance(body, ChatRequest) else "prompt",
            )
        return GenerationRequest(prompt, body.sampling(min(room, self._max_tokens)), task, n)


class _Answer:
    """The events of one or more engine requests that are answered together.

    Choice i of prompt p is choice p * n + i.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        requests: Sequence[GenerationRequest],
        *,
        forced: bool,
    ) -> None:
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._requests = requests
        self._engine = engine
        self._metrics = metrics
        self._forced = forced
        self._loop = asyncio.get_running_loop()
        self._tickets: list[Any] = []
        self._early: list[tuple[int, Event]] = []
        try:
            for number, request in enumerate(requests):
                self._tickets.append(engine.submit(request, self._listener(number)))
        except ServingError:
            self._cancel(gone=False)
            raise

    @property
    def _choices(self) -> int:
        return sum(request.n for request in self._requests)

    async def start(self) -> list[Started]:
        """Wait until the prompts are read."""
        started: dict[int, Started] = {}
        try:
            while len(started) < len(self._requests):
                number, event = await self._next()
                if isinstance(event, Started):
                    started[number] = event
                else:
                    self._early.append((number, event))
        except BaseException as error:
            self._cancel(gone=isinstance(error, asyncio.CancelledError))
            raise
        return [started[number] for number in range(len(self._requests))]

    async def whole(self, shape: Shape, started: Sequence[Started]) -> Json:
        """The answer in one piece."""
        choices = [Choice() for _ in range(self._choices)]
        async for index, chunk in self._chunks():
            choices[index].add(chunk)
        return shape.whole(choices, _prompt_tokens(started), self._routing(started))

    async def stream(
        self, shape: Shape, started: Sequence[Started], include_usage: bool, *, chat: bool
    ) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        routing, tokens = {"routing": self._routing(started)}, 0
        lengths = [0] * self._choices
        try:
            if chat:
                first = [shape.first(index) for index in range(self._choices)]
                yield _sse(shape.part(first, **routing))
                routing = {}
            async for index, chunk in self._chunks():
                tokens += chunk.tokens
                if chunk.text or chunk.logprobs or chunk.finish_reason:
                    delta = shape.delta(index, chunk, lengths[index])
                    lengths[index] += len(chunk.text)
                    yield _sse(shape.part([delta], **routing))
                    routing = {}
            if include_usage:
                yield _sse(shape.part([], usage=usage(_prompt_tokens(started), tokens)))
        except ServingError as error:
            yield _sse(error_body(str(error), error.status))
        yield "data: [DONE]\n\n"

    async def _chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        """All chunks, each with the index of its choice."""
        starts = [sum(r.n for r in self._requests[:i]) for i in range(len(self._requests))]
        missing = self._choices
        try:
            while missing:
                number, event = self._early.pop(0) if self._early else await self._next()
                if isinstance(event, Chunk):
                    missing -= event.finish_reason is not None
                    yield starts[number] + event.index, event
        except ServingError:
            self._cancel(gone=False)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._cancel(gone=True)
            raise

    async def _next(self) -> tuple[int, Event]:
        number, event = await self._events.get()
        if isinstance(event, Failed):
            raise event.error
        return number, event

    def _cancel(self, *, gone: bool) -> None:
        """Free the places of all requests; `gone`: because the client went away."""
        for ticket in self._tickets:
            self._engine.cancel(ticket)
        if gone:
            self._metrics.canceled()

    def _routing(self, started: Sequence[Started]) -> Any:
        bodies = [routing_body(one, self._forced) for one in started]
        return bodies[0] if len(bodies) == 1 else bodies

    def _listener(self, number: int) -> Callable[[Event], None]:
        observe = self._metrics.observer()

        def listen(event: Event) -> None:
            observe(event)
            try:
                self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))
            except RuntimeError:  # the loop is closed: nobody listens any more
                return

        return listen


def _prompt_tokens(started: Sequence[Started]) -> int:
    return sum(one.prompt_tokens for one in started)


def _sse(body: Json) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of `work`, which is canceled if the client goes away."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=0.25)
            if not task.done() and await request.is_disconnected():
                raise ServingError("the client went away", 499)
        return task.result()
    finally:
        task.cancel()
