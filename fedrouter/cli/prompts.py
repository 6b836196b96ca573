"""The commands that take prompts, and how prompts are read."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrouter.cli.options import AsJson, OfClient, RunDir
from fedrouter.errors import DataError

if TYPE_CHECKING:
    from fedrouter.inference.types import Route

PROMPT_KEYS = ("prompt", "instruction")  # of a JSON object; the second is that of training rows

_Prompts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PROMPT]...",
        help="Prompts, each of any number of lines; - reads one from standard input.",
    ),
]
_PromptFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Read a prompt from a file; - is standard input."),
]
_Lines = Annotated[
    bool,
    typer.Option("--lines", help="The file or standard input has one prompt a line."),
]
_JsonLines = Annotated[
    bool,
    typer.Option(
        "--jsonl",
        help='The file or standard input has a JSON text a line, or an object with "prompt" or '
        '"instruction".',
    ),
]


def route(  # noqa: PLR0917 - each is an option of the command
    folder: RunDir,
    prompts: _Prompts = None,
    file: _PromptFile = None,
    lines: _Lines = False,
    jsonl: _JsonLines = False,
    as_json: AsJson = False,
    client: OfClient = None,
) -> None:
    """Show the task that each prompt is routed to."""
    from fedrouter.cli.finished_run import read_finished

    texts = read_prompts(prompts or [], file, lines=lines, jsonl=jsonl)
    read_finished(folder)
    from fedrouter.inference.routed_model import RoutedModel

    for decision in RoutedModel.load(folder).route(texts, client):
        if as_json:
            print(json.dumps(asdict(decision)))
        else:
            print(f"{_task(decision)}  {one_line(decision.prompt)}")


def generate(  # noqa: PLR0917 - each is an option of the command
    folder: RunDir,
    prompts: _Prompts = None,
    file: _PromptFile = None,
    lines: _Lines = False,
    jsonl: _JsonLines = False,
    as_json: AsJson = False,
    client: OfClient = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="Longest answer; unset: as in the run."),
    ] = None,
) -> None:
    """Answer each prompt with the adapter of its task."""
    from fedrouter.cli.finished_run import read_finished

    texts = read_prompts(prompts or [], file, lines=lines, jsonl=jsonl)
    read_finished(folder)
    from fedrouter.inference.routed_model import RoutedModel

    for answer in RoutedModel.load(folder).generate(texts, max_new_tokens, client):
        if as_json:
            print(json.dumps(asdict(answer)))
        else:
            print(f"[{_task(answer)}] {one_line(answer.prompt)}")
            print(f"  -> {answer.text}")


def read_prompts(given: list[str], file: Path | None, *, lines: bool, jsonl: bool) -> list[str]:
    """The prompts of a command.

    Args:
        given: prompts of the command line; "-" stands for standard input.
        file: a file to read further prompts from; "-" is standard input; None: none.
        lines: the file and standard input have a prompt on each line that is not blank, instead of
            one prompt of all lines.
        jsonl: they have a prompt as JSON on each line that is not blank.

    Raises:
        DataError: there is no prompt, an empty one, or a text that is not UTF-8 or not JSON.
    """
    if lines and jsonl:
        raise DataError("--lines and --jsonl are two formats of the same text; give one of them")
    prompts: list[str] = []
    for text in given:
        if text == "-":
            prompts += _split(*_read(Path("-")), lines=lines, jsonl=jsonl)
        else:
            _check_utf8(text)
            prompts.append(text)
    if file is not None:
        prompts += _split(*_read(file), lines=lines, jsonl=jsonl)
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise DataError("there is no prompt, or an empty one; give the text to answer")
    return prompts


def _read(path: Path) -> tuple[str, str]:
    """The name and the text of a file, or of standard input."""
    name = "standard input" if path == Path("-") else str(path)
    try:
        data = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        return name, data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror}); name a text file") from error
    except UnicodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error}); convert it first") from error


def _check_utf8(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeError as error:
        raise DataError(f"a prompt is not UTF-8 text ({error}); convert it first") from error


def _split(name: str, text: str, *, lines: bool, jsonl: bool) -> Iterator[str]:
    """The prompts in a text, without the ends of their lines."""
    if not lines and not jsonl:
        yield text.rstrip("\r\n")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _from_json(f"{name}, line {number}", line) if jsonl else line.rstrip("\r")


def _from_json(where: str, line: str) -> str:
    """The prompt in a line of JSON: a text, or an object with one of `PROMPT_KEYS`."""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if isinstance(value, dict):
        value = next((value[key] for key in PROMPT_KEYS if key in value), None)
    if not isinstance(value, str):
        keys = " or ".join(f'"{key}"' for key in PROMPT_KEYS)
        raise DataError(
            f"{where}: expected a JSON text, or an object with {keys}; texts with one prompt a "
            "line are read with --lines"
        )
    return value


def _task(route: "Route") -> str:
    """The task of a prompt and the confidence, or "unknown task" if it is out of distribution."""
    return f"{route.task}  {route.confidence:.2f}" if route.known else "unknown task"


def one_line(text: str, width: int = 90) -> str:
    """A text on one line of at most `width` characters."""
    joined = " ".join(text.split())
    return joined if len(joined) <= width else joined[: width - 1] + "…"
