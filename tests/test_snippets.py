"""Every command and snippet of README.md and the documentation runs, or says here why it does not.

Commands run in folders in which what they name exists, at sizes of a second: `TINY` is added to
the settings of whatever trains. A new command fails here until it runs or is listed in `NOT_RUN`.
"""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import uvicorn
from support.gguf_files import write_gguf
from support.places import ROOT
from support.servers import served
from support.snippets import Block, blocks
from support.toys import toy_rows, toy_settings

import fedrouter.config
from fedrouter import RoutedModel
from fedrouter.cli.app import app
from fedrouter.config import load_config, registered, registry
from fedrouter.deploy import init_deployment
from fedrouter.serving.app import make_app
from fedrouter.serving.engine import Engine, Limits
from fedrouter.serving.local import LocalBackend

# A pattern at the beginning of a command -> the reason why it does not run here.
NOT_RUN = {
    r"pip install": "`make dist` installs what it builds into an empty environment",
    r"make|\.ci/run": "the checks themselves; `make demo` is tests/integration/test_demo.py",
    r"\.venv/bin/fedrouter run configs/smollm2": "a model of 270 MB; tests/integration/"
    "test_configs.py runs every configuration with stand-ins",
    r"sudo|scp|rm -r|chown|cp /opt|systemctl": "changes the machine; docs/deploy.md: untested",
    r"fedrouter deploy doctor": "needs servers, rows and certificates: tests/deploy/test_doctor.py",
    r"cp SOURCE": "for containers, which the page marks untried",
    r"fedrouter run .*tracking|tensorboard|mlflow|wandb": "extras: tests/tracking",
    r"server/|operator/|\./start\.sh": "servers: tests/integration/test_deployment.py",
    r"(python )?examples/": "tests/test_examples.py",
    r"vllm|llama-server|ollama|export VLLM|docker": "programs of others; the pages say what of it "
    "was tried",
    r"fedrouter serve \S+ --upstream": "needs such an engine: tests/serving/test_upstream.py",
    r"fedrouter serve \S+ --follow|fedrouter run \S+ -o \S+ &": "two processes side by side: "
    "tests/serving/test_follow.py",
    r"fedrouter run --set data.train=flan8|fedrouter run .*model.dtype=bfloat16": "needs flan8",
    r"python scripts/(pretrain|evaluate)_nano": "hours: tests/scripts",
    r"python scripts/make_reasoning_rows": "an extra: tests/scripts/test_make_reasoning_rows.py",
    r"python -m bench": "minutes to hours of measurements, most on data that is not shipped",
}
SLOW = r"fedrouter compare|.* --engine flower"
NOT_RUN_PYTHON = {"from langchain_openai": "the page marks it untested; not a dependency"}
CHECKED_ONLY: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "ini": lambda text: configparser.ConfigParser(interpolation=None, strict=False).read_string(
        text
    ),
    "dockerfile": len,  # the page marks it untested
    "text": len,  # what a program prints, or a drawing
}
TINY = {
    "federation.rounds": "2",
    "training.steps": "2",
    "training.batch_size": "2",
    "evaluation.max_new_tokens": "2",
    "evaluation.samples": "1",
    "clustering.n_local": "1",
    "clustering.n_global": "2",
    "data.builtin_train": "8",
    "data.builtin_test": "2",
    "compare.seeds": "[1]",
    "compare.scenarios": '["single"]',
}
ALL = blocks()


def not_run(command: str) -> str | None:
    """Why a command does not run here; None: it does."""
    return next((why for what, why in NOT_RUN.items() if re.match(what, command)), None)


def parameters(language: str) -> list[object]:
    """The blocks of a language with something to run, the slow ones marked."""
    found = []
    for block in ALL:
        if block.language != language:
            continue
        if language == "python" or any(not_run(command) is None for command in block.commands()):
            slow = language == "" and any(re.match(SLOW, one) for one in block.commands())
            marks = [pytest.mark.slow] if slow else []
            found.append(pytest.param(block, id=block.name, marks=marks))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, toy_run: Path, tiny_folder: Path) -> Path:
    """What the pages' commands name: rows, a base model as folder and file, a finished run."""
    folder = tmp_path_factory.mktemp("made")
    rows = toy_rows(9)
    for name in ("rows", "train", "test", "few"):
        task = {} if name == "rows" else {"task": "toy"}
        lines = [{"instruction": r.instruction, "response": r.response, **task} for r in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "reasoning").mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        shutil.copy(folder / name, folder / "reasoning" / name)
    table = [f'"{r.instruction}",{r.response},site-{i % 5}' for i, r in enumerate(rows)]
    (folder / "rows.csv").write_text("\n".join(["request,reply,site", *table]))
    (folder / "my.toml").write_text("[federation]\nclients = 3\n")
    (folder / "prompt.txt").write_text("0 1 2\nand a second line")
    for name in ("path/to/folder", "path/or/hub-name"):
        shutil.copytree(tiny_folder, folder / name)
    write_gguf(tiny_folder, folder / "model.Q8_0.gguf")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("mine", "other", "third"):
        shutil.copytree(toy_run, folder / "runs" / name)
    shutil.copytree(toy_run / "tasks" / "task-00", folder / "task-00")
    shutil.copytree(ROOT / "examples", folder / "examples")
    init_deployment(folder / "federation", nodes=3, host="fed.example.org")
    return folder


@pytest.fixture
def place(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> Iterator[Path]:
    """A copy of it, as the current folder; a run on the base model that the tests make."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "place"))
    tiny = {**dict(x.split("=", 1) for x in toy_settings(tiny_folder, made)[:3]), **TINY}

    def with_tiny(path: Path | None, settings: Sequence[str] = ()) -> object:
        given = {setting.partition("=")[0] for setting in settings} - set(TINY)
        return load_config(
            path, [*settings, *(f"{k}={v}" for k, v in tiny.items() if k not in given)]
        )

    monkeypatch.setattr(fedrouter.config, "load_config", with_tiny)
    monkeypatch.setattr(registry, "_entries", dict(registered()))  # a page registers a strategy
    yield tmp_path / "place"
    sys.modules.pop("fedopt", None)


@pytest.fixture(scope="module")
def address(made: Path) -> Iterator[str]:
    """The run, served."""
    model = RoutedModel.load(made / "runs" / "mine")
    engine = Engine(model, Limits(batch=4, queue=64))
    with served(make_app(LocalBackend(engine, Path("runs/mine"), max_tokens=4))) as url:
        yield url


async def ended_at_once(server: uvicorn.Server) -> None:
    """Stands for the time in which a server answers."""


def write_strategy() -> None:
    """fedopt.py, the first program of docs/strategies.md."""
    page = [block for block in ALL if block.page == "docs/strategies.md"]
    Path("fedopt.py").write_text(next(b for b in page if b.language == "python").text)


def run_fedrouter(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a fedrouter command in this process; a server ends when it would begin to answer."""
    arguments = shlex.split(command, comments=True)[1:]
    if arguments[0] == "serve":
        monkeypatch.setattr(uvicorn.Server, "main_loop", ended_at_once)
        arguments += ["--port", "0"]
    if arguments[0] == "export" and "--base-name" not in arguments:
        arguments += ["--base-name", "someone/model"]  # nano needs none, the tests' model does
    made_here = [Path(value) for flag, value in pairwise(arguments) if flag == "-o"]
    for path in made_here:
        shutil.rmtree(path, ignore_errors=True)
    assert not app(arguments, standalone_mode=False), command  # an exit code


def run_program(command: str) -> None:
    """Run another program; its absence skips the test."""
    program = shlex.split(command, comments=True)[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = subprocess.run(
        command, shell=True, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"


@pytest.mark.parametrize("block", parameters(""))
def test_commands_run(
    block: Block,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if block.page == "docs/deploy.md":
        monkeypatch.chdir(place / "federation")
    if "fedopt" in block.text:  # the page says how an installed package registers it
        write_strategy()
        import_module("fedopt")
    for written in block.commands():
        if not_run(written) is not None:
            continue
        command = written.removeprefix(".venv/bin/").replace("/opt/federation", f"{place}/new")
        if command.startswith("fedrouter "):
            run_fedrouter(command, monkeypatch)
            continue
        if "http://127.0.0.1:8000" in command:
            url = request.getfixturevalue("address")
            run_program(command.replace("http://127.0.0.1:8000", url) + " --fail-with-body -sS")
        else:
            run_program(command)


@pytest.mark.parametrize("block", parameters("python"))
def test_python_runs(block: Block, place: Path, request: pytest.FixtureRequest) -> None:
    if any(block.text.startswith(start) for start in NOT_RUN_PYTHON):
        pytest.skip(NOT_RUN_PYTHON[next(s for s in NOT_RUN_PYTHON if block.text.startswith(s))])
    code = block.text
    if "http://127.0.0.1:8000" in code:
        code = code.replace("http://127.0.0.1:8000", request.getfixturevalue("address"))
    if re.search(r"^run\(.*runs/mine", code, re.MULTILINE):
        shutil.rmtree("runs/mine")
    if "the file above" in code:
        write_strategy()
    exec(compile(code, block.name, "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)
def test_blocks_have_a_known_language(block: Block) -> None:
    if block.language in CHECKED_ONLY:
        CHECKED_ONLY[block.language](block.text)
    else:
        assert block.language in ("", "python"), f"{block.name}: {block.language}"


def test_no_reason_is_stale() -> None:
    commands = [c for block in ALL if block.language == "" for c in block.commands()]
    stale = [what for what in NOT_RUN if not any(re.match(what, c) for c in commands)]
    assert stale == []
