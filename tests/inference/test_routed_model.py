import shutil
from pathlib import Path

import pytest
from support.toys import save_tiny_base

from fedrouter import RoutedModel
from fedrouter.data.rows import Message
from fedrouter.errors import AdapterError, DataError, ModelError, RequestError, RunError
from fedrouter.storage.run_folder import RunFolder

PROMPTS = ["7 8 9", "WHICH COLOUR: RED 3", "[{x=5}];;", "7 8 9"]


@pytest.fixture(scope="module")
def model(toy_run: Path) -> RoutedModel:
    return RoutedModel.load(toy_run)


def test_every_prompt_goes_to_its_task(model: RoutedModel) -> None:
    routes = model.route(PROMPTS)
    assert [model.majority[route.task] for route in routes] == ["count", "colour", "strip", "count"]
    assert [route.prompt for route in routes] == PROMPTS
    assert all(0 <= route.confidence <= 1 for route in routes)


def test_a_mixed_batch_answers_as_one_prompt_at_a_time(model: RoutedModel) -> None:
    together = model.generate(PROMPTS, max_new_tokens=5)
    alone = [model.generate([prompt], max_new_tokens=5)[0] for prompt in PROMPTS]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.task for answer in together] == [answer.task for answer in alone]


def test_each_answer_is_its_adapters(model: RoutedModel) -> None:
    tasks = list(model.router.geometry.tasks)
    by_adapter = [
        model.multi_adapter.generate([PROMPTS[0]], [((task, 1.0),)], max_new_tokens=5)[0]
        for task in tasks
    ]
    mixed = model.multi_adapter.generate(
        [PROMPTS[0]] * len(tasks), [((task, 1.0),) for task in tasks], max_new_tokens=5
    )
    assert mixed == by_adapter


def test_a_clients_prompts_go_to_its_own_tasks(model: RoutedModel) -> None:
    for client in range(3):
        own = {task["id"] for task in model.tasks if client in task["clients"]}
        assert len(own) == 2
        assert {route.task for route in model.route(PROMPTS, client=client)} <= own


def test_no_prompts(model: RoutedModel) -> None:
    assert model.generate([]) == []


def test_an_unknown_client_or_adapter(model: RoutedModel) -> None:
    with pytest.raises(RunError, match="has 0 to 2"):
        model.route(PROMPTS, client=9)
    with pytest.raises(AdapterError, match="task-00"):
        model.multi_adapter.generate(["x"], [(("task-99", 1.0),)], max_new_tokens=1)


def test_scope_local_needs_a_client(toy_run: Path, tmp_path: Path) -> None:
    local = Path(shutil.copytree(toy_run, tmp_path / "run"))
    config = local / "config.toml"
    config.write_text(config.read_text().replace('scope = "global"', 'scope = "local"'))
    model = RoutedModel.load(local)
    assert len(model.route(PROMPTS, client=0)) == 4
    with pytest.raises(RunError, match="--client"):
        model.route(PROMPTS)


def test_an_unfinished_run(toy_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_run, tmp_path / "run"))
    (folder / "summary.json").unlink()
    with pytest.raises(RunError, match="fedrouter resume"):
        RoutedModel.load(folder)
    assert not RunFolder.open(folder).finished


def test_another_base_model(toy_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_run, tmp_path / "run"))
    other = save_tiny_base(tmp_path / "base", seed=5)
    config = folder / "config.toml"
    lines = config.read_text().splitlines()
    changed = [f'name = "{other}"' if "tiny-base" in line else line for line in lines]
    config.write_text("\n".join(changed) + "\n")
    with pytest.raises(ModelError, match="another base model"):
        RoutedModel.load(folder)


def test_a_damaged_adapter(toy_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_run, tmp_path / "run"))
    (folder / "tasks/task-01/adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(AdapterError, match="task-01"):
        RoutedModel.load(folder)


def test_a_chat_of_one_turn_is_that_prompt(model: RoutedModel) -> None:
    for prompt in PROMPTS[:3]:
        [expected] = model.generate([prompt], max_new_tokens=5)
        assert model.chat([{"role": "user", "content": prompt}], max_new_tokens=5) == expected


def test_a_chat_is_routed_by_the_users_turns_and_answered_as_a_whole(model: RoutedModel) -> None:
    messages = [
        {"role": "system", "content": "[{x=9}];;"},
        {"role": "user", "content": PROMPTS[1]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "WHICH COLOUR: BLUE 4"},
    ]
    answer = model.chat(messages, max_new_tokens=5)
    assert answer.prompt == f"{PROMPTS[1]}\n\nWHICH COLOUR: BLUE 4"
    assert answer.task == model.route([answer.prompt])[0].task
    conversation = [Message(turn["role"], turn["content"]) for turn in messages]
    ids = model.base.prompts.prompt_ids(conversation)
    with model.multi_adapter._bank.active(*model.multi_adapter._mix([((answer.task, 1.0),)])):
        assert model.base.generate([ids], 5) == [answer.text]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "holds no turn; give a list such as"),
        ("hello", "holds no turn"),
        ([{"role": "user"}], "message 1: give a mapping with the keys 'role' and 'content'"),
        ([{"role": "tool", "content": "x"}], "message 1: role = 'tool'; use one of system, user"),
        ([{"role": "user", "content": 3}], "message 1: content is a int; give a text"),
        ([{"role": "assistant", "content": "x"}], "end with the user's turn"),
    ],
)
def test_no_conversation(model: RoutedModel, messages: object, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        model.chat(messages)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="has 0 to 2"):
        model.chat([{"role": "user", "content": "x"}], client=9)


def test_a_text_is_one_prompt_and_an_empty_one_is_refused(model: RoutedModel) -> None:
    [answer] = model.generate("7 8 9", max_new_tokens=5)
    assert answer == model.generate(["7 8 9"], max_new_tokens=5)[0]
    for empty in ("", ["7 8 9", " \n"]):
        with pytest.raises(RequestError, match="is empty; give a text"):
            model.generate(empty)


def test_sampling_depends_on_the_seed_alone(model: RoutedModel) -> None:
    def drawn(seed: int) -> list[str]:
        answers = model.generate(PROMPTS, max_new_tokens=6, temperature=1.5, seed=seed)
        return [answer.text for answer in answers]

    assert drawn(1) == drawn(1) != drawn(2)
    with pytest.raises(RequestError, match="temperature"):
        model.generate(PROMPTS, temperature=float("nan"))


def test_a_stream_is_the_answer_in_parts(model: RoutedModel) -> None:
    [whole] = model.generate(PROMPTS[:1], max_new_tokens=6)
    assert "".join(model.generate(PROMPTS[0], max_new_tokens=6, stream=True)) == whole.text
    messages = [{"role": "user", "content": PROMPTS[1]}]
    assert "".join(model.chat(messages, 6, stream=True)) == model.chat(messages, 6).text
    with pytest.raises(RequestError, match="one text for a stream, not 2"):
        model.generate(PROMPTS[:2], stream=True)


def test_a_chat_is_drawn_as_the_prompt_alone(model: RoutedModel) -> None:
    messages = [{"role": "user", "content": PROMPTS[1]}]
    drawn = model.chat(messages, 6, temperature=1.5, top_p=0.9, seed=3)
    assert [drawn] == model.generate(PROMPTS[1], 6, temperature=1.5, top_p=0.9, seed=3)
    parts = model.chat(messages, 6, temperature=1.5, top_p=0.9, seed=3, stream=True)
    assert "".join(parts) == drawn.text
    letter = drawn.text[0]
    assert model.chat(messages, 6, temperature=1.5, top_p=0.9, seed=3, stop=letter).text == ""


def test_stop_texts_end_a_response(model: RoutedModel) -> None:
    answers = model.generate(PROMPTS, max_new_tokens=6)
    whole = next(answer for answer in answers if answer.text)
    [cut] = model.generate(whole.prompt, max_new_tokens=6, stop=[whole.text[-1]])
    assert cut.text == whole.text[: whole.text.index(whole.text[-1])]
