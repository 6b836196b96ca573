"""The public API is documented with examples that run; documents agree with code and each other."""

import doctest
import inspect
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from test_architecture import modules

import fedrouter
from fedrouter.cli.app import app
from fedrouter.config import load_config, registered, registry

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")]
)
EXAMPLE = "fedopt"  # a strategy that only docs/strategies.md registers; its own tests run it
ARGS_FROM = 3  # number of parameters from which a docstring has a section Args


def parameters(function: object) -> list[str]:
    """The names of a function's parameters, without self and cls."""
    if not callable(function):
        return []
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def public_functions() -> list[tuple[str, object]]:
    """The public functions of the API, and the public methods of its classes that are ours."""
    found: list[tuple[str, object]] = []
    for name in fedrouter.__all__:
        member = getattr(fedrouter, name)
        if inspect.isfunction(member):
            found.append((name, member))
        elif inspect.isclass(member):
            own = [(key, inspect.unwrap(getattr(member, key))) for key in vars(member)]
            found += [
                (f"{name}.{key}", method)
                for key, method in own
                if not key.startswith("_") and inspect.isroutine(method)
            ]
    return found


def doctests(text: str, name: str) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(text, {}, name, None, None)


@pytest.mark.parametrize("name", fedrouter.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(fedrouter, name)) or ""
    assert doctests(text, name).examples, f"the docstring of fedrouter.{name} has no example"


@pytest.mark.parametrize(
    "module", [name for name, path in modules().items() if ">>> " in path.read_text("utf-8")]
)
def test_examples_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registered()))  # an example registers a strategy
    failed, tried = doctest.testmod(import_module(f"fedrouter.{module}"))
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize(("name", "function"), public_functions())
def test_docstrings_describe_parameters_from_three_on(name: str, function: object) -> None:
    text = inspect.getdoc(function) or ""
    assert text, f"fedrouter.{name} has no docstring"
    if len(parameters(function)) >= ARGS_FROM:
        section = text.partition("Args:\n")[2]
        for parameter in parameters(function):
            assert f"{parameter}: " in section, f"fedrouter.{name} does not describe {parameter}"


def code_blocks(page: str) -> Iterator[str]:
    """The shell commands in a page's code blocks, with continued lines joined."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()


def commands(page: str) -> Iterator[list[str]]:
    """The arguments of each `fedrouter` command in a page's code blocks."""
    for line in code_blocks(page):
        if re.match(r"(\.venv/bin/)?fedrouter ", line):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_documents_exist_and_their_settings_are_valid(path: Path) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for command, *arguments in commands(path.read_text(encoding="utf-8")):
        assert command in known, f"{path.name}: fedrouter {command}"
        settings = [value for flag, value in pairwise(arguments) if flag == "--set"]
        if not any(EXAMPLE in setting for setting in settings):
            load_config(None, settings)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_modules_that_documents_name_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[\w-]+/)+\w+\.py)`", text):
        assert (ROOT / name).exists() or (ROOT / "fedrouter" / name).exists(), (
            f"{path.name}: {name}"
        )


def test_the_numbers_of_the_first_screen_are_those_of_the_results() -> None:
    screen = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    headings = ("## SmolLM2-135M", "## Main results")
    main = "".join(results.partition(heading)[2].partition("\n## ")[0] for heading in headings)
    numbers = re.findall(r"[-+]\d+(?:\.\d+)? %|\b0\.\d{3}\b", screen)
    assert numbers, "the first screen gives no results"
    assert [number for number in numbers if number not in main] == []
