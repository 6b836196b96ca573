"""No module needs what only Unix has in order to be imported; memory is told in the same unit."""

import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from test_architecture import modules

from fedrouter.server import resource_usage
from fedrouter.tracking.registry import TRACKERS

UNIX_ONLY = ["fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"]

# Imports every module as if these did not exist for fedrouter; the libraries below it, which ask
# for the platform, go on as they are.
PROGRAM = f"""
import builtins, importlib, sys
plain = builtins.__import__
def without(name, globals=None, *rest, **named):
    if name in {UNIX_ONLY} and (globals or {{}}).get("__name__", "").startswith("fedrouter"):
        raise ModuleNotFoundError("no module " + name)
    return plain(name, globals, *rest, **named)
builtins.__import__ = without
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


@pytest.mark.slow
def test_every_module_can_be_imported_without_unix() -> None:
    names = [f"fedrouter.{name}" for name in modules() if not name.startswith("__")]
    missing = [one.module for one in TRACKERS.values() if find_spec(one.package) is None]
    names = [name for name in names if name not in ("fedrouter.config.__main__", *missing)]
    command = [sys.executable, "-c", PROGRAM, *names]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(("unit", "maxrss"), [(1024, 300 * 1024), (1, 300 * 2**20)])
def test_peak_memory_is_in_mib(monkeypatch: pytest.MonkeyPatch, unit: int, maxrss: int) -> None:
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=maxrss))
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(resource_usage, "MAXRSS_UNIT", unit)
    assert resource_usage.peak_rss_mb() == 300


def test_peak_memory_is_unknown_without_getrusage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert resource_usage.peak_rss_mb() is None
