"""Rounds that arrive while requests are answered."""

import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.adapters import random_weights
from support.servers import served
from support.toys import toy_rows

from fedrouter import RoutedModel
from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import load_resolved
from fedrouter.errors import ConfigError
from fedrouter.serving import follow
from fedrouter.serving.app import make_app
from fedrouter.serving.engine import Engine, Limits
from fedrouter.serving.follow import Follower
from fedrouter.serving.local import LocalBackend
from fedrouter.serving.run import ServeSettings, serve
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import TaskState
from fedrouter.types import AdapterWeights

PROMPTS = [row.instruction for row in toy_rows(3)[:6]]
TOKENS = 12


@pytest.fixture(scope="module")
def trained(toy_run: Path, tmp_path_factory: pytest.TempPathFactory, routed: RoutedModel) -> Path:
    """A run with two checkpoints whose adapters and router differ."""
    source, folder = RunFolder.open(toy_run), tmp_path_factory.mktemp("trained")
    shutil.copy(toy_run / "config.toml", folder)
    checkpoint, _ = source.latest_checkpoint()
    assert checkpoint is not None
    last = TaskState.unpack(checkpoint.arrays, checkpoint.meta["state"])
    geometry = last.geometry
    for round in (1, 2):
        state = replace(last, round=round, adapters=adapters_of(routed, last.adapters, round))
        centroids = np.roll(geometry.centroids, round, axis=0)
        arrays, packed = state.with_geometry(replace(geometry, centroids=centroids)).pack()
        RunFolder.open(folder).save_checkpoint(round, arrays, {**checkpoint.meta, "state": packed})
    return folder


def adapters_of(routed: RoutedModel, names: Iterable[str], round: int) -> dict[str, AdapterWeights]:
    spec = LoraSpec.from_config(routed.config.adapter).resolved(routed.base.model)
    weights = {name: random_weights(routed.base.model, spec, t) for t, name in enumerate(names)}
    return {
        name: {key: array * round for key, array in one.items()} for name, one in weights.items()
    }


@pytest.fixture
def training(trained: Path, tmp_path: Path) -> Path:
    """The same run when its first round was finished."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(trained / "config.toml", folder)
    finish_round(trained, folder, 1)
    return folder


def finish_round(trained: Path, folder: Path, round: int) -> None:
    """As the run does: the checkpoint appears under its name when it is whole."""
    hidden, name = folder / "checkpoints" / ".hidden", f"round-{round:04d}"
    shutil.copytree(trained / "checkpoints" / name, hidden)
    hidden.rename(folder / "checkpoints" / name)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def follower(training: Path, routed: RoutedModel, said: list[str]) -> Iterator[Follower]:
    config = load_resolved(training / "config.toml")
    with Follower(RunFolder.open(training), routed.base, config, said.append) as one:
        yield one


def hooks(model: RoutedModel) -> int:
    return sum(len(module._forward_hooks) for module in model.base.model.modules())


def test_the_last_checkpoint_is_the_finished_run(toy_run: Path) -> None:
    finished = RoutedModel.load(toy_run)
    last = Follower(RunFolder.open(toy_run), finished.base, finished.config, print).first()
    assert (last.round, finished.round) == (3, 3)
    assert last.generate(PROMPTS, TOKENS) == finished.generate(PROMPTS, TOKENS)
    assert [task["id"] for task in last.tasks] == [task["id"] for task in finished.tasks]
    last.detach()


def test_every_answer_is_that_of_exactly_one_round(
    trained: Path, training: Path, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second round arrives while 8 clients ask; none is refused, none gets a mixture."""
    monkeypatch.setattr(follow, "PERIOD", 0.1)
    first = follower.first()
    before = hooks(first)
    expected = {1: answers(first)}
    engine = Engine(first, Limits(batch=4, queue=64))
    taken = threading.Event()

    def take(model: RoutedModel) -> None:
        expected[2] = answers(model)
        engine.replace(model)
        taken.set()

    follower.start(take)
    with served(make_app(LocalBackend(engine, training, 16))) as url, ThreadPoolExecutor(8) as pool:

        def ask(i: int) -> tuple[str, int, str, str]:
            body = {"prompt": PROMPTS[i % 6], "max_tokens": TOKENS}
            response = httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status()
            answer = response.json()
            assert response.headers["x-fedrouter-round"] == str(answer["routing"]["round"])
            text = answer["choices"][0]["text"]
            return PROMPTS[i % 6], answer["routing"]["round"], answer["routing"]["task"], text

        early = [pool.submit(ask, i) for i in range(16)]
        finish_round(trained, training, 2)
        late = []
        while not taken.is_set():
            late.append(pool.submit(ask, len(late)))
            time.sleep(0.05)
        after = [pool.submit(ask, i) for i in range(8)]
        got = [future.result() for future in [*early, *late, *after]]
        assert httpx.get(f"{url}/health").json()["round"] == 2
        assert "fedrouter_round 2.0" in httpx.get(f"{url}/metrics").text
    for prompt, round, task, text in got:
        assert (text, task) == expected[round][prompt]
    assert {round for _, round, _, _ in got} == {1, 2}
    assert [round for _, round, _, _ in got[-8:]] == [2] * 8
    assert all(expected[1][prompt] != expected[2][prompt] for prompt in PROMPTS)
    assert hooks(first) == before  # the first round's adapters are gone, the second's are there


def answers(model: RoutedModel) -> dict[str, tuple[str, str]]:
    return {one.prompt: (one.text, one.task) for one in model.generate(PROMPTS, TOKENS)}


def test_an_answer_ends_with_the_adapters_it_began_with(
    trained: Path, training: Path, follower: Follower
) -> None:
    first = follower.first()
    [expected] = first.generate(PROMPTS[:1], 40)
    finish_round(trained, training, 2)
    second = follower.newer()
    assert second is not None
    engine = Engine(first, Limits())
    with served(make_app(LocalBackend(engine, training, 64))) as url:
        body = {"prompt": PROMPTS[0], "max_tokens": 40, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            assert response.headers["x-fedrouter-round"] == "1"
            engine.replace(second)
            parts = [line for line in response.iter_lines() if line.startswith("data: {")]
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": PROMPTS[0], "max_tokens": 4})
    assert answer.json()["routing"]["round"] == 2
    text = "".join(
        httpx.Response(200, text=part[6:]).json()["choices"][0]["text"] for part in parts
    )
    assert text == expected.text


def test_half_a_checkpoint_is_told_of_and_taken_when_it_is_whole(
    trained: Path, training: Path, follower: Follower, said: list[str]
) -> None:
    first = follower.first()
    source = trained / "checkpoints" / "round-0002"
    half = training / "checkpoints" / "round-0002"
    half.mkdir()
    tensors = (source / "state.safetensors").read_bytes()
    (half / "state.safetensors").write_bytes(tensors[:1000])
    assert follower.newer() is None
    assert len(said) == 1 and "round-0002 is damaged" in said[0]
    shutil.copy(source / "state.json", half)
    assert follower.newer() is None
    assert follower.newer() is None  # nothing has changed: it is not read, nor told of again
    assert len(said) == 2 and "round-0002 is damaged" in said[1]
    shutil.copy(source / "state.safetensors", half)
    second = follower.newer()
    assert second is not None and (first.round, second.round) == (1, 2)
    first.detach()
    second.detach()


def test_a_checkpoint_of_another_base_model_is_not_taken(
    trained: Path, training: Path, follower: Follower, said: list[str]
) -> None:
    first = follower.first()
    taken: list[RoutedModel] = []
    follower._base.fingerprint, right = "another", follower._base.fingerprint
    try:
        follower.start(taken.append)
        finish_round(trained, training, 2)
        end = time.monotonic() + 20
        while not said:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        follower._base.fingerprint = right
    assert "round is not taken" in said[0] and "another base model" in said[0]
    assert taken == []
    first.detach()


def test_a_run_without_a_round_is_waited_for(
    trained: Path, training: Path, follower: Follower, said: list[str]
) -> None:
    shutil.rmtree(training / "checkpoints")
    with ThreadPoolExecutor(1) as pool:
        model = pool.submit(follower.first)
        while not said:
            time.sleep(0.01)
        (training / "checkpoints").mkdir()
        finish_round(trained, training, 1)
        assert model.result(timeout=20).round == 1
    assert said == [f"waiting for the first checkpoint of {training}"]
    model.result().detach()


def test_a_task_that_a_newer_round_no_longer_has_is_not_found(
    training: Path, follower: Follower
) -> None:
    model = follower.first()
    backend = LocalBackend(Engine(model, Limits()), training, 16)
    with served(make_app(backend)) as url:
        names = model.multi_adapter._slots
        slot = names.pop("task-00")
        try:
            body = {"prompt": PROMPTS[0], "model": "task-00", "max_tokens": 2}
            response = httpx.post(f"{url}/v1/completions", json=body)
        finally:
            names["task-00"] = slot
    assert response.status_code == 404 and "does not exist" in response.text
    model.detach()


def test_adapters_of_another_engine_cannot_be_followed(tmp_path: Path) -> None:
    settings = ServeSettings(follow=True, upstream="http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="--upstream"):
        serve(tmp_path, settings)
