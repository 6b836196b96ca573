"""The API as the `openai` package sees it."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from support.toys import toy_rows

from fedrouter import RoutedModel
from fedrouter.serving.local import LocalBackend

PROMPTS = [row.instruction for row in toy_rows(3)[:8]]


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_models_are_listed_with_the_base_as_parent(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"auto", "toys", "task-00", "task-07"} <= models.keys()
    [base] = [model.id for model in models.values() if model.parent is None]
    assert {model.parent for model in models.values()} == {None, base}
    assert client.models.retrieve("task-03").id == "task-03"
    with pytest.raises(openai.NotFoundError, match="The model `task-99` does not exist"):
        client.models.retrieve("task-99")


def test_a_completion_is_that_of_the_routed_model(
    client: openai.OpenAI, routed: RoutedModel
) -> None:
    expected = routed.generate(PROMPTS, max_new_tokens=6)
    for prompt, one in zip(PROMPTS, expected, strict=True):
        answer = client.completions.create(model="auto", prompt=prompt, max_tokens=6)
        assert answer.choices[0].text == one.text
        assert answer.routing["task"] == one.task
        assert answer.routing["adapters"] == [{"task": one.task, "weight": 1.0}]
        assert answer.routing["nearest"][0]["task"] == one.task
        assert answer.usage.completion_tokens <= 6
        assert answer.usage.prompt_tokens == routed.base.prompts.length(prompt)


def test_several_prompts_and_responses(client: openai.OpenAI, routed: RoutedModel) -> None:
    answer = client.completions.create(model="toys", prompt=PROMPTS[:2], n=2, max_tokens=4)
    expected = [one.text for one in routed.generate(PROMPTS[:2], max_new_tokens=4)]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == [t for t in expected for _ in range(2)]
    assert [one["task"] for one in answer.routing] == ["task-00", "task-01"]


@pytest.mark.parametrize("model", ["auto", "task-05", "base"])
def test_a_stream_is_the_answer_in_parts(
    client: openai.OpenAI, routed: RoutedModel, model: str
) -> None:
    name = routed.config.model.name.rpartition("/")[2] if model == "base" else model
    whole = client.completions.create(model=name, prompt=PROMPTS[0], max_tokens=6)
    stream = list(
        client.completions.create(
            model=name,
            prompt=PROMPTS[0],
            max_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(part.choices[0].text for part in stream[:-1]) == whole.choices[0].text
    assert len({part.id for part in stream}) == 1
    assert stream[0].routing == whole.routing
    assert stream[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (stream[-1].choices, stream[-1].usage) == ([], whole.usage)
    forced = {"auto": [("task-00", 1.0)], "task-05": [("task-05", 1.0)], "base": []}[model]
    adapters = [(one["task"], one["weight"]) for one in whole.routing["adapters"]]
    assert adapters == forced


def test_a_chat_and_its_stream(client: openai.OpenAI, routed: RoutedModel) -> None:
    messages = [{"role": "user", "content": PROMPTS[2]}]
    whole = client.chat.completions.create(model="auto", messages=messages, max_tokens=5)
    [expected] = routed.generate([PROMPTS[2]], max_new_tokens=5)
    assert whole.choices[0].message.content == expected.text
    assert whole.choices[0].message.role == "assistant"
    stream = list(
        client.chat.completions.create(
            model="auto", messages=messages, max_completion_tokens=5, stream=True
        )
    )
    assert stream[0].choices[0].delta.role == "assistant"
    assert stream[0].routing["task"] == expected.task
    assert "".join(part.choices[0].delta.content or "" for part in stream) == expected.text
    assert stream[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_headers_tell_the_choice(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="auto", prompt=PROMPTS[3], max_tokens=1)
    assert raw.headers["x-fedrouter-task"] == "task-03"
    assert 0 <= float(raw.headers["x-fedrouter-confidence"]) <= 1
    assert raw.headers["x-fedrouter-known"] == "true"


def test_a_prompt_outside_every_task_is_said_to_be(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="auto", prompt="Zz " * 20, max_tokens=2)
    assert answer.routing["known"] is False
    assert answer.routing["adapters"] == []  # the run's fallback is the base model


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> list[str]:
        answer = client.completions.create(
            model="auto", prompt=PROMPTS[1], max_tokens=8, temperature=1.5, n=3, seed=seed
        )
        return [choice.text for choice in answer.choices]

    first = drawn(7)
    assert first == drawn(7) != drawn(8)
    assert len(set(first)) > 1


def test_stop_texts_end_an_answer(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="task-01", prompt=PROMPTS[1], max_tokens=8)
    text = whole.choices[0].text
    assert len(text) > 3
    cut = client.completions.create(
        model="task-01", prompt=PROMPTS[1], max_tokens=8, stop=[text[2:4]]
    )
    assert cut.choices[0].text == text[: text.index(text[2:4])]
    assert cut.choices[0].finish_reason == "stop"


def test_log_probabilities(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": PROMPTS[1]}],
        max_tokens=3,
        logprobs=True,
        top_logprobs=2,
    )
    content = chat.choices[0].logprobs.content
    assert len(content) == chat.usage.completion_tokens
    for entry in content:
        assert entry.logprob <= 0
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)  # greedy
        assert len(entry.top_logprobs) == 2
    plain = client.completions.create(model="auto", prompt=PROMPTS[1], max_tokens=3, logprobs=1)
    logprobs = plain.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)


def test_many_at_once_get_the_answers_of_one_at_a_time(
    address: str, routed: RoutedModel, backend: LocalBackend
) -> None:
    """More requests than the batch has places, through sync and async clients."""
    prompts = [PROMPTS[i % 8] for i in range(48)]
    expected = {p: routed.generate([p], max_new_tokens=6)[0] for p in PROMPTS}

    async def all_at_once() -> list[object]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as one:
            return await asyncio.gather(
                *(one.completions.create(model="auto", prompt=p, max_tokens=6) for p in prompts)
            )

    for prompt, answer in zip(prompts, asyncio.run(all_at_once()), strict=True):
        assert answer.choices[0].text == expected[prompt].text
        assert answer.routing["task"] == expected[prompt].task

    def ask(prompt: str) -> str:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as one:
            stream = one.completions.create(model="auto", prompt=prompt, max_tokens=6, stream=True)
            return "".join(part.choices[0].text for part in stream)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, prompts[:24]))
    assert answers == [expected[prompt].text for prompt in prompts[:24]]


def test_route(address: str, routed: RoutedModel) -> None:
    response = httpx.post(f"{address}/v1/route", json={"prompts": PROMPTS})
    data = response.json()["data"]
    assert [one["task"] for one in data] == [route.task for route in routed.route(PROMPTS)]
    assert all(set(one["distances"]) == {f"task-{t:02d}" for t in range(8)} for one in data)


def test_health_and_metrics(address: str) -> None:
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    httpx.post(f"{address}/v1/completions", json={"prompt": PROMPTS[0], "max_tokens": 2})
    text = httpx.get(f"{address}/metrics").text
    assert 'fedrouter_requests_total{finish_reason="length",task="task-00"}' in text
    assert "fedrouter_time_to_first_token_seconds_bucket" in text


def test_the_page_asks_no_other_host(address: str) -> None:
    page = httpx.get(address)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("app.js", "style.css", "icon.svg"):
        assert f"/page/{name}" in page.text
        assert httpx.get(f"{address}/page/{name}").status_code == 200


def test_events_end_with_done(address: str) -> None:
    body = {"prompt": PROMPTS[0], "max_tokens": 2, "stream": True}
    response = httpx.post(f"{address}/v1/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def test_nothing_is_kept_of_a_request(
    client: openai.OpenAI, routed: RoutedModel, backend: LocalBackend
) -> None:
    """Or a server's memory would grow with its requests."""
    before = len(routed.base._embeddings)
    for i in range(20):
        client.completions.create(model="auto", prompt=f"never seen before {i}", max_tokens=1)
    engine = backend._engine
    assert len(routed.base._embeddings) == before
    assert (engine.running, engine.waiting, engine._canceled) == (0, 0, set())
    assert [batch.sequences for batch in engine._batches.values()] == [[]]
