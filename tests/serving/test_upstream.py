"""Requests that another engine answers: a small server that records what it is asked."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from support.servers import served
from support.toys import toy_rows

from fedrouter import RoutedModel
from fedrouter.errors import ConfigError
from fedrouter.serving.app import make_app
from fedrouter.serving.engine import Limits
from fedrouter.serving.run import ServeSettings, _upstream
from fedrouter.serving.upstream import UpstreamBackend
from fedrouter.serving.upstream_models import UpstreamApi, UpstreamModels

PROMPTS = [row.instruction for row in toy_rows(3)[:8]]
STRANGER = "Zz " * 20
EVENTS = b'data: {"choices": [{"delta": {"content": "an"}}]}\n\ndata: {"x": 1}\n\ndata: [DONE]\n\n'


class Recorder:
    """An engine that has some adapters, and answers "answer"."""

    def __init__(self, adapters: list[str], may_load: bool = False) -> None:
        self.adapters, self.may_load = adapters, may_load
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/lora-adapters", self.lora),
                Route("/health", lambda _: Response("")),
                Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
                Route("/v1/completions", self.answer, methods=["POST"]),
                Route("/v1/chat/completions", self.answer, methods=["POST"]),
            ]
        )

    async def models(self, _: Request) -> Response:
        cards = [{"id": name, "parent": "served-base"} for name in self.adapters]
        return JSONResponse({"data": [{"id": "served-base", "parent": None}, *cards]})

    async def lora(self, _: Request) -> Response:
        return JSONResponse(
            [{"id": 7 + i, "path": f"/x/{name}.gguf"} for i, name in enumerate(self.adapters)]
        )

    async def load(self, request: Request) -> Response:
        if not self.may_load:
            return Response("", 404)
        self.adapters.append((await request.json())["lora_name"])
        return Response("Success")

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.paths.append(request.url.path)
        self.keys.append(request.headers.get("authorization"))
        if body["model"] not in ("served-base", "base", *self.adapters):
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        if body.get("temperature") == 2:
            return JSONResponse({"error": {"message": "too hot", "code": 400}}, 400)
        if body.get("stream"):
            return StreamingResponse(iter([EVENTS]), media_type="text/event-stream")
        return JSONResponse({"choices": [{"text": "answer"}], "usage": {"total_tokens": 3}})


def connected(
    model: RoutedModel, url: str, api: UpstreamApi, check: bool, keys: Path | None = None
) -> UpstreamBackend:
    """As `fedrouter serve --upstream` connects; without `check`, to an engine that is not asked."""
    limits = Limits(seconds=5)
    settings = ServeSettings(upstream=url, upstream_api=api, upstream_key_file=keys, limits=limits)
    if check:
        return _upstream(model, Path("/runs/toys"), url, settings)
    client = httpx.AsyncClient(base_url=url, timeout=5)
    return UpstreamBackend(model, Path("/runs/toys"), client, api, UpstreamModels("base"))


TASKS = [f"task-{t:02d}" for t in range(8)]


@pytest.fixture
def engine() -> Iterator[tuple[Recorder, str]]:
    recorder = Recorder(list(TASKS))
    with served(recorder.app) as url:
        yield recorder, url


@pytest.fixture
def address(routed: RoutedModel, engine: tuple[Recorder, str], tmp_path: Path) -> Iterator[str]:
    (tmp_path / "keys").write_text("k\n")
    backend = connected(routed, engine[1], "openai", check=True, keys=tmp_path / "keys")
    with served(make_app(backend)) as url:
        yield url


def test_a_prompt_is_answered_by_its_tasks_adapter(
    engine: tuple[Recorder, str], address: str
) -> None:
    recorder, _ = engine
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    answer = client.completions.create(model="auto", prompt=PROMPTS[2], max_tokens=5, user="me")
    assert answer.choices[0].text == "answer"
    assert answer.routing["task"] == "task-02"
    [body] = recorder.bodies
    assert (body["model"], body["max_tokens"], body["user"]) == ("task-02", 5, "me")
    assert body["prompt"] == f"{PROMPTS[2]}\n"  # in the run's template
    assert recorder.keys == ["Bearer k"]
    messages = [{"role": "user", "content": PROMPTS[3]}]
    client.chat.completions.create(model="task-05", messages=messages)
    assert (recorder.bodies[1]["model"], recorder.bodies[1]["messages"]) == ("task-05", messages)


def test_a_stranger_goes_to_the_base_model(engine: tuple[Recorder, str], address: str) -> None:
    response = httpx.post(f"{address}/v1/completions", json={"prompt": STRANGER})
    assert response.headers["x-fedrouter-known"] == "false"
    assert response.json()["routing"]["adapters"] == []
    assert engine[0].bodies[0]["model"] == "served-base"


def test_a_stream_passes_through_unchanged(engine: tuple[Recorder, str], address: str) -> None:
    body = {"messages": [{"role": "user", "content": PROMPTS[1]}], "stream": True}
    response = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert response.content == EVENTS
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-fedrouter-task"] == "task-01"


def test_errors_of_the_engine_pass_through(address: str) -> None:
    body = {"prompt": PROMPTS[0], "temperature": 2.0}
    response = httpx.post(f"{address}/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "too hot")


def test_llama_cpp_takes_scales_of_all_adapters(
    routed: RoutedModel, engine: tuple[Recorder, str]
) -> None:
    recorder, url = engine
    with served(make_app(connected(routed, url, "llamacpp", check=True))) as address:
        recorder.adapters.append("base")
        httpx.post(f"{address}/v1/completions", json={"prompt": PROMPTS[4]})
        httpx.post(f"{address}/v1/completions", json={"prompt": STRANGER})
    scales = [{entry["id"]: entry["scale"] for entry in body["lora"]} for body in recorder.bodies]
    assert scales[0] == {7 + t: float(t == 4) for t in range(8)}
    assert scales[1] == {7 + t: 0.0 for t in range(8)}


def test_vllm_is_asked_to_load_what_it_lacks(routed: RoutedModel) -> None:
    recorder = Recorder(TASKS[:5], may_load=True)
    with served(recorder.app) as url:
        connected(routed, url, "vllm", check=True)
        assert sorted(recorder.adapters) == TASKS
    recorder = Recorder(TASKS[:5])
    with served(recorder.app) as url:
        for api in ("vllm", "openai"):
            with pytest.raises(ConfigError, match="--lora-modules task-05=/runs/toys/tasks"):
                connected(routed, url, api, check=True)
        with pytest.raises(ConfigError, match=r"--lora task-05\.gguf"):
            connected(routed, url, "llamacpp", check=True)


def test_an_engine_that_is_down_or_lacks_an_adapter(
    routed: RoutedModel, engine: tuple[Recorder, str]
) -> None:
    recorder, url = engine
    with served(make_app(connected(routed, url, "openai", check=True))) as address:
        recorder.adapters.remove("task-02")
        response = httpx.post(f"{address}/v1/completions", json={"prompt": PROMPTS[2]})
        assert response.status_code == 502
        assert "has no model 'task-02'" in response.json()["error"]["message"]
    down = "http://127.0.0.1:9"
    with pytest.raises(ConfigError, match="is the engine up"):
        connected(routed, down, "openai", check=True)
    with served(make_app(connected(routed, down, "openai", check=False))) as address:
        for path, body in (("/v1/completions", {"prompt": PROMPTS[0]}), ("/health", None)):
            method = "GET" if body is None else "POST"
            response = httpx.request(method, address + path, json=body)
            assert response.status_code == 502
            assert "cannot be reached" in response.json()["error"]["message"]


def test_an_engine_that_is_slow(routed: RoutedModel) -> None:
    async def slow(_: Request) -> Response:
        await asyncio.sleep(5)
        return Response("")

    app = Starlette(routes=[Route("/v1/completions", slow, methods=["POST"])])
    with served(app) as url:
        client = httpx.AsyncClient(base_url=url, timeout=0.2)
        backend = UpstreamBackend(routed, Path("toys"), client, "openai", UpstreamModels("base"))
        with served(make_app(backend)) as address:
            response = httpx.post(f"{address}/v1/completions", json={"prompt": PROMPTS[0]})
            assert response.status_code == 504
            assert "in time" in response.json()["error"]["message"]


def test_an_engine_that_breaks_off(routed: RoutedModel) -> None:
    async def broken() -> Any:
        yield b'data: {"a": 1}\n\n'
        raise RuntimeError("broken")

    async def answer(_: Request) -> Response:
        return StreamingResponse(broken(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])])
    with served(app) as url:
        backend = connected(routed, url, "openai", check=False)
        with served(make_app(backend)) as address:
            body = {"prompt": PROMPTS[0], "stream": True}
            text = httpx.post(f"{address}/v1/completions", json=body).text
    first, error, done = [part for part in text.split("\n\n") if part]
    assert json.loads(first.removeprefix("data: ")) == {"a": 1}
    assert "broke off" in json.loads(error.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"
