"""Output on terminals that are narrow or cannot show every character."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LONG = "WHICH COLOUR: café " + "RED " * 40


@pytest.mark.slow
@pytest.mark.parametrize("command", ["tasks", "route", "generate"])
def test_an_ascii_terminal_gets_replacements(toy_run: Path, command: str) -> None:
    arguments = [] if command == "tasks" else [LONG]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "20"}
    ran = subprocess.run(
        [sys.executable, "-m", "fedrouter", command, str(toy_run), *arguments],
        capture_output=True,
        env=environment,
        check=True,
    )
    ran.stdout.decode("ascii")
    ran.stderr.decode("ascii")
    if command == "tasks":
        assert b"+--" in ran.stdout  # the lines of the tables, too
    else:
        assert b"caf?" in ran.stdout
