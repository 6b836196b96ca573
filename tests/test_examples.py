"""Every example runs: those in Python at the size of toys, the others as they are (slow)."""

import io
import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from support.flower_processes import free_port
from support.places import ROOT
from support.toys import toy_settings

from fedrouter.config import registered, registry

EXAMPLES = ROOT / "examples"


def run_example(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registered()))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_listed() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert {name for name in names if f"]({name})" in text} == names


def test_run_and_generate(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_folder: Path,
    toy_data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = toy_settings(tiny_folder, toy_data)
    run_example(monkeypatch, "run_and_generate.py", str(tmp_path / "run"), *settings)
    output = capsys.readouterr().out
    assert output.count("samples of the clients") == 3
    assert output.count("confidence") == 2


def test_own_strategy(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_folder: Path,
    toy_data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = toy_settings(tiny_folder, toy_data)
    run_example(monkeypatch, "own_strategy.py", str(tmp_path), *settings)
    plain, momentum = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (plain[0], momentum[0], len(plain), len(momentum)) == ("fedavg", "fedavgm", 4, 4)
    assert plain[1:3] == momentum[1:3]  # the velocity begins with the first round's movement
    assert plain[3] != momentum[3]


def code_cells() -> list[str]:
    notebook = json.loads((EXAMPLES / "tasks.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def test_the_notebook_is_plain_python() -> None:
    for number, code in enumerate(code_cells()):
        compile(code, f"cell {number}", "exec")


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in one namespace; without Jupyter, whose kernel would be 20 more packages."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    printed, namespace = io.StringIO(), {"__name__": "__main__"}
    with redirect_stdout(printed):
        for number, code in enumerate(code_cells()):
            exec(compile(code, f"cell {number}", "exec"), namespace)
    assert printed.getvalue().count("known") >= 3
    assert "outside" in printed.getvalue()


@pytest.mark.slow
def test_serve_and_chat(toy_run: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "serve_and_chat.py"), str(toy_run), "0 1 2", "3 4 5"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in ran.stdout.splitlines() if line.startswith("you:")] == [
        "you: 0 1 2",
        "you: 3 4 5",
    ]
    assert ran.stdout.count("confidence") == 2


@pytest.mark.slow
def test_two_hospitals(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = ["sh", str(EXAMPLES / "two_hospitals.sh"), str(tmp_path / "hospitals")]
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    server = tmp_path / "hospitals" / "server"
    summary = json.loads((server / "runs" / "first" / "summary.json").read_text())
    assert sorted(sorted(task["clients"]) for task in summary["tasks"]) == [[0], [0, 1], [1]]
    assert "2007-04-06" in ran.stdout
