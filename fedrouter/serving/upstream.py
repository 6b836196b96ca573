"""Answers by an engine that exists: fedrouter routes, vLLM or llama.cpp generates."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fedrouter.data.rows import Message
from fedrouter.errors import RequestError
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.inference.types import Route
from fedrouter.routing.types import AdapterMixture
from fedrouter.serving.decision import decide, route_prompts
from fedrouter.serving.metrics import Metrics
from fedrouter.serving.names import ModelNames
from fedrouter.serving.requests import ServingError, Started
from fedrouter.serving.responses import Json, routing_body, routing_headers
from fedrouter.serving.schema import ChatRequest, CompletionRequest
from fedrouter.serving.upstream_models import UpstreamApi, UpstreamModels

PASSED = ("content-type", "retry-after")  # headers of the engine that reach the client


class UpstreamBackend:
    """Routes requests and passes them on to an engine that has the run's adapters.

    Args:
        model: the run; its adapters are not used here.
        folder: the run folder.
        client: speaks to the engine; its base URL is the engine's, without ``/v1``.
        api: how the engine is asked for an adapter: "vllm" and "openai" by the field `model`,
            "llamacpp" by the field `lora`.
        models: what the engine calls the base model and the adapters.

    Attributes:
        metrics: what it counts.
    """

    def __init__(
        self,
        model: RoutedModel,
        folder: Path,
        client: httpx.AsyncClient,
        api: UpstreamApi,
        models: UpstreamModels,
    ) -> None:
        self.metrics = Metrics(lambda: self._open, lambda: 0, lambda: model.round)
        self._model = model
        self._client = client
        self._api = api
        self._names = ModelNames.of(model, folder)
        self._created = int(time.time())
        self._open = 0
        self._models = models

    def cards(self) -> list[Json]:
        """The run, its tasks and the base model."""
        return self._names.cards(self._created, self._model.base.positions)

    async def health(self) -> Json:
        """That the engine answers."""
        await self._send("GET", "/health")
        return {"status": "ok", "round": self._model.round, "upstream": str(self._client.base_url)}

    async def route(self, prompts: list[str]) -> list[Route]:
        """The router's decision for each prompt."""
        return await route_prompts(self._model, prompts)

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """The engine's answer to a chat."""
        fields = json.loads(await request.body())
        return await self._answer("/v1/chat/completions", fields, body, body.conversation())

    async def complete(self, request: Request, body: CompletionRequest) -> Response:
        """The engine's answer to an instruction, which is sent in the run's template."""
        if len(body.prompts) != 1 or not body.prompts[0].strip():
            raise RequestError("should be one text that is not empty", "prompt")
        fields = json.loads(await request.body())
        fields["prompt"] = self._model.base.prompts.prompt_text(body.prompts[0])
        return await self._answer("/v1/completions", fields, body, body.prompts[0])

    async def close(self) -> None:
        """End the connections to the engine."""
        await self._client.aclose()

    async def _answer(
        self,
        path: str,
        fields: Json,
        body: ChatRequest | CompletionRequest,
        prompt: str | Sequence[Message],
    ) -> Response:
        task = self._names.task(body.model)
        [(route, mixture)] = await asyncio.to_thread(decide, self._model, [(prompt, task)])
        started = Started(route, self._supported(mixture), 0, self._model.round)
        observe = self.metrics.observer()
        observe(started)
        response = await self._send("POST", path, {**fields, **self._chosen(started.mixture)})
        headers = {k: v for k, v in response.headers.items() if k in PASSED}
        headers |= routing_headers(started)
        if body.stream and response.is_success:
            self._open += 1
            done = BackgroundTask(self._close_stream, response)
            return StreamingResponse(self._bytes(response), 200, headers, background=done)
        content = await response.aread()
        await response.aclose()
        if not response.is_success:
            return Response(content, response.status_code, headers)
        return self._with_routing(content, routing_body(started, task is not None), headers)

    def _supported(self, mixture: AdapterMixture) -> AdapterMixture:
        """What the engine can answer with: if it takes one adapter a request, the largest part."""
        if self._api == "llamacpp" or len(mixture) < 2:
            return mixture
        return ((max(mixture, key=lambda part: part[1])[0], 1.0),)

    def _chosen(self, mixture: AdapterMixture) -> Json:
        """The fields of a request that ask the engine for adapters."""
        if self._api == "llamacpp":
            weights = dict(mixture)
            return {
                "model": self._models.base,
                "lora": [
                    {"id": n, "scale": weights.get(t, 0.0)} for t, n in self._models.numbers.items()
                ],
            }
        return {"model": mixture[0][0] if mixture else self._models.base}

    async def _send(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        """The engine's response, whose body is not read yet.

        Raises:
            ServingError: 502 or 504, the engine is down or slow, or lacks the adapter.
        """
        where = str(self._client.base_url)
        try:
            request = self._client.build_request(method, path, json=body)
            response = await self._client.send(request, stream=True)
        except httpx.TimeoutException as error:
            raise ServingError(f"the engine at {where} did not answer in time", 504) from error
        except httpx.HTTPError as error:
            raise ServingError(f"the engine at {where} cannot be reached", 502) from error
        if response.status_code == 404 and body is not None:
            await response.aclose()
            raise ServingError(f"the engine at {where} has no model {body['model']!r}", 502)
        return response

    async def _bytes(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """The engine's stream as it is; if it breaks off, an error event ends it."""
        try:
            async for part in response.aiter_raw():
                yield part
        except httpx.HTTPError:
            where = self._client.base_url
            error = {"error": {"message": f"the engine at {where} broke off", "code": 502}}
            yield f"data: {json.dumps(error)}\n\ndata: [DONE]\n\n".encode()

    async def _close_stream(self, response: httpx.Response) -> None:
        self._open -= 1
        await response.aclose()

    @staticmethod
    def _with_routing(content: bytes, routing: Json, headers: dict[str, str]) -> Response:
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            return Response(content, 200, headers)
        return JSONResponse({**answer, "routing": routing}, 200, headers)
