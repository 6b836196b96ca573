"""How commands end: by a signal, or for lack of memory."""

import os
import signal
import sys
import time

import pytest
import typer

from fedrouter.cli import app as cli
from fedrouter.cli.app import _progress, main


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_says_how_to_go_on(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells may ignore it
    try:
        before = signal.getsignal(number)
        with pytest.raises(typer.Exit) as ended, _progress("fedrouter resume runs/x"):
            os.kill(os.getpid(), number)
            time.sleep(10)
        assert signal.getsignal(number) == before
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert ended.value.exit_code == code
    assert "stopped; continue with: fedrouter resume runs/x" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_lack_of_memory_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: the memory is not enough; ")


def test_other_errors_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a fault of fedrouter")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["fedrouter"])
    with pytest.raises(RuntimeError, match="a fault of fedrouter"):
        main()
