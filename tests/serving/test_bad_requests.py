"""Whatever a client sends, it gets an error in OpenAI's shape, and the next request is answered."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.servers import served
from support.toys import toy_rows

from fedrouter import RoutedModel
from fedrouter.errors import ConfigError
from fedrouter.serving.app import make_app
from fedrouter.serving.engine import Engine, Limits
from fedrouter.serving.local import LocalBackend
from fedrouter.serving.run import ServeSettings, read_keys, serve

PROMPT = toy_rows(1)[0].instruction
CHAT, COMPLETION, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"


def message(content: Any = PROMPT, role: Any = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(**fields: Any) -> tuple[str, bytes]:
    return CHAT, json.dumps({"messages": [message()], **fields}).encode()


def completion(**fields: Any) -> tuple[str, bytes]:
    return COMPLETION, json.dumps({"prompt": PROMPT, "max_tokens": 2, **fields}).encode()


def check(response: httpx.Response, status: int, says: str = "") -> None:
    error = response.json()["error"]
    assert response.status_code == error["code"] == status, error
    assert says in error["message"]
    assert error["message"].isprintable()
    assert {"message", "type", "param", "code"} == error.keys()


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ((CHAT, b""), "JSON"),
        ((CHAT, b"{"), "JSON"),
        ((CHAT, b"\xff\xfe"), "JSON"),
        ((CHAT, b"[]"), ""),
        ((CHAT, b"[" * 100_000), "JSON"),
        ((CHAT, b"{}"), "messages"),
        (chat(messages=[]), "no turn"),
        (chat(messages="hello"), "messages"),
        (chat(messages=[message(role="robot")]), "robot"),
        (chat(messages=[message(role=3)]), "messages.0.role"),
        (chat(messages=[message(content=None)]), "messages.0.content"),
        (chat(messages=[message(content=[{"type": "image_url"}])]), "messages.0.content"),
        (chat(messages=[message(), message(role="assistant")]), "end with the user's turn"),
        (chat(temperature="hot"), "temperature"),
        ((CHAT, b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'), ""),
        (chat(temperature=-1), "temperature"),
        (chat(top_p=0), "top_p"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_completion_tokens=-3), "max_completion_tokens"),
        (chat(n=0), "n"),
        (chat(n=1000), "n"),
        (chat(stop=[""]), "stop"),
        (chat(stop=3), "stop"),
        (chat(stream="yes"), "stream"),
        (chat(logprobs=True, top_logprobs=99), "top_logprobs"),
        (chat(messages=[message("long " * 2000)]), "tokens"),
        (completion(prompt=""), "prompt"),
        (completion(prompt=[]), "prompt"),
        (completion(prompt=[1, 2, 3]), "prompt"),
        (completion(prompt="long " * 2000), "tokens"),
        (completion(seed=2**70), "seed"),
        ((ROUTE, b'{"prompts": []}'), "prompts"),
        ((ROUTE, b'{"prompts": [""]}'), "prompts"),
        ((ROUTE, b'{"prompts": "x"}'), "prompts"),
    ],
)
def test_what_cannot_be_used_is_refused(
    address: str, request_: tuple[str, bytes], says: str
) -> None:
    path, body = request_
    check(httpx.post(address + path, content=body), 400, says)
    answered(address)


def answered(address: str) -> None:
    path, body = completion()
    assert httpx.post(address + path, content=body).status_code == 200


def test_an_unknown_model_path_or_method(address: str) -> None:
    path, body = chat(model="gpt-9")
    check(httpx.post(address + path, content=body), 404, "The model `gpt-9` does not exist.")
    check(httpx.get(f"{address}/v1/nothing"), 404)
    check(httpx.get(address + CHAT), 405)


def test_unknown_fields_are_ignored(address: str) -> None:
    path, body = completion(user="me", best_of=3, response_format={"type": "text"})
    assert httpx.post(address + path, content=body).status_code == 200


def test_a_large_body_is_refused_before_it_is_read(address: str) -> None:
    check(httpx.post(address + CHAT, content=b"x" * (2**20 + 1)), 413)

    def endless() -> Iterator[bytes]:  # sent in parts, without a length
        for _ in range(100):
            yield b"x" * 2**20

    with suppress(httpx.WriteError):  # the server may close the connection in the middle
        check(httpx.post(address + CHAT, content=endless()), 413)
    answered(address)


def test_a_client_that_goes_away_frees_its_place(address: str, backend: LocalBackend) -> None:
    for stream in (True, False):
        for _ in range(6):
            with leaving(address, max_tokens=16, stream=stream, n=4):
                pass
    wait_until(lambda: (backend._engine.running, backend._engine.waiting) == (0, 0))
    answered(address)


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(
    routed: RoutedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, right = Engine(routed, Limits(batch=1, queue=8)), routed.base.next_logits

    def slow(*arguments: Any) -> Any:
        time.sleep(0.05)
        return right(*arguments)

    monkeypatch.setattr(routed.base, "next_logits", slow)
    with served(make_app(LocalBackend(engine, Path("toys"), 400))) as url:
        with leaving(url, max_tokens=400, stop=[]), leaving(url):
            wait_until(lambda: (engine.running, engine.waiting) == (1, 1))
        wait_until(lambda: (engine.running, engine.waiting) == (0, 0))
        text = httpx.get(f"{url}/metrics").text
        assert 'finish_reason="canceled"' in text


@contextmanager
def leaving(address: str, **fields: Any) -> Iterator[None]:
    """A request whose client goes away at the end of the block."""
    host, port = address.removeprefix("http://").split(":")
    path, body = completion(**fields)
    with socket.create_connection((host, int(port))) as connection:
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "", ""]
        connection.sendall("\r\n".join(head).encode() + body)
        yield


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def narrow(routed: RoutedModel) -> Iterator[str]:
    """A server with one place, one in the queue, and keys."""
    engine = Engine(routed, Limits(batch=1, queue=1, seconds=30))
    with served(make_app(LocalBackend(engine, Path("toys"), 400), ["secret"])) as url:
        yield url


def test_keys(narrow: str) -> None:
    path, body = completion()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        check(httpx.post(narrow + path, content=body, headers=headers), 401)
        check(httpx.get(f"{narrow}/v1/models", headers=headers), 401)
        check(httpx.get(f"{narrow}/metrics", headers=headers), 401)
    right = {"Authorization": "Bearer secret"}
    assert httpx.post(narrow + path, content=body, headers=right).status_code == 200
    assert httpx.get(f"{narrow}/health").status_code == 200
    assert httpx.get(narrow).status_code == 200


def test_a_full_queue_says_when_to_try_again(narrow: str) -> None:
    import asyncio

    async def crowd() -> list[httpx.Response]:
        headers = {"Authorization": "Bearer secret"}
        async with httpx.AsyncClient(base_url=narrow, headers=headers, timeout=60) as client:
            path, body = completion(max_tokens=60)
            return await asyncio.gather(*(client.post(path, content=body) for _ in range(8)))

    responses = asyncio.run(crowd())
    refused = [response for response in responses if response.status_code != 200]
    assert 1 <= len(refused) < 8
    for response in refused:
        check(response, 429, "try again")
        assert int(response.headers["retry-after"]) >= 1


def test_an_answer_that_takes_too_long_is_given_up(routed: RoutedModel) -> None:
    engine = Engine(routed, Limits(seconds=0.0))
    with served(make_app(LocalBackend(engine, Path("toys"), 400))) as url:
        path, body = completion()
        check(httpx.post(url + path, content=body), 504, "no answer within")


def test_a_failing_model_costs_its_requests_alone(
    routed: RoutedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(routed, Limits())
    right = routed.base.next_logits

    def wrong(*arguments: Any) -> Any:
        raise RuntimeError("secret of the model")

    with served(make_app(LocalBackend(engine, Path("toys"), 400))) as url:
        monkeypatch.setattr(routed.base, "next_logits", wrong)
        path, body = completion()
        response = httpx.post(url + path, content=body)
        check(response, 500, "RuntimeError")
        assert "secret" not in response.text
        monkeypatch.setattr(routed.base, "next_logits", right)
        answered(url)
    assert "secret of the model" in capsys.readouterr().err


def test_other_addresses_need_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--api-key-file"):
        serve(tmp_path, ServeSettings(host="0.0.0.0"))


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert read_keys(file) == ("one", "two")
    file.write_text("\n")
    with pytest.raises(ConfigError, match="no key"):
        read_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*--port"):
            serve(tmp_path, ServeSettings(port=port))
