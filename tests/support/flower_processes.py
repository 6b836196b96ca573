"""A Flower deployment on this machine: a SuperLink and SuperNodes in processes of their own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from support.places import ROOT

BIN = Path(sys.executable).parent
APP = ROOT / "fedrouter/assets/deploy/operator/app"


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Deployment:
    """Starts processes with a Flower home of their own; `stop` ends them all, by pid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        home = folder / "flwr"
        home.mkdir(parents=True)
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "test"\n[superlink.test]\n'
            f'address = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """A process whose output goes to NAME.log."""
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes[name] = process
        return process

    def superlink(self) -> None:
        """The SuperLink; returns when it listens."""
        port = str(self.port)
        options = ("--insecure", "--disable-runtime-dependency-installation", "--port", port)
        self.start("superlink", "flower-superlink", *options)
        self.wait_for(lambda: _listens(self.port), "the SuperLink to listen", 60)

    def node(self, name: str, config: Mapping[str, str | int]) -> None:
        """A SuperNode."""
        texts = [f"{k}={v}" if isinstance(v, int) else f"{k}='{v}'" for k, v in config.items()]
        superlink, port = f"127.0.0.1:{self.port}", str(free_port())
        options = ("--superlink", superlink, "--port", port, "--node-config", " ".join(texts))
        self.start(name, "flower-supernode", "--insecure", *options)

    def run(self, settings: str, output: Path) -> subprocess.Popen[bytes]:
        """`flwr run` of the thin app; ends when the run does."""
        app = self.folder / "app"
        if not app.exists():
            shutil.copytree(APP, app)
        given = f'settings="{settings}" output="{output}"'
        return self.start("run", "flwr", "run", str(app), "test", "--stream", "-c", given)

    def wait_for(self, condition, what: str, seconds: float) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s for {what}; {self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """The ends of all logs."""
        paths = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in paths)

    def stop(self) -> None:
        """End every process that was started, and those that they started, politely first."""
        started = [pid for p in self.processes.values() for pid in (p.pid, *children(p.pid))]
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in started:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, 9)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children(pid: int) -> list[int]:
    """All processes that a process has started, and those they have."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, listed) for found in (child, *children(child))]
