"""A federation started with the written files: who gets in, and who does not. Real processes."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.flower_processes import BIN, free_port

from fedrouter.deploy import init_deployment

pytestmark = pytest.mark.slow

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
WITH_GATE = pytest.param(
    False, marks=pytest.mark.skipif(NGINX is None, reason="needs nginx"), id="gate"
)


class Federation:
    """A written deployment whose scripts are run; every process group is ended by its id."""

    def __init__(self, folder: Path, direct: bool) -> None:
        self.folder, self.direct, self.port = folder, direct, free_pair()
        init_deployment(folder, nodes=2, host="localhost", port=self.port, direct=direct)
        path = f"{BIN}:{os.environ['PATH']}:/usr/sbin"
        self.environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Run a script; its output goes to the file that is returned too."""
        log = self.folder / f"{len(self.started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [self.folder / script, *options],
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process, log

    def node(self, number: int) -> tuple[subprocess.Popen[bytes], Path]:
        return self.start(f"node-{number}/start.sh", "--port", str(free_port()))

    def call(self, script: str, *options: str) -> str:
        """What a script prints that ends well."""
        command = [str(self.folder / script), *options]
        ran = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def open(self) -> None:
        """Start the server's side; returns when it can be reached."""
        _, log = self.start("server/superlink.sh")
        wait_for(lambda: "Uvicorn running on https" in log.read_text(), log)
        if not self.direct:
            _, log = self.start("server/gate.sh")
            wait_for(lambda: self.status("/") == 403, log)

    def status(self, path: str) -> int:
        """The HTTP status of a request to the port that nodes connect to; 0: nobody listens."""
        trust = ssl.create_default_context(cafile=self.folder / "node-1/ca.crt")
        request = urllib.request.Request(f"https://localhost:{self.port}{path}", data=b"")
        try:
            return urllib.request.urlopen(request, context=trust, timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code
        except urllib.error.URLError as error:
            assert isinstance(error.reason, ConnectionError), error
            return 0

    def close(self) -> None:
        for process in reversed(self.started):
            end(process)


def free_pair() -> int:
    """A port that is free, as is the next one."""
    while True:
        port = free_port()
        with suppress(OSError, OverflowError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 1))
            return port


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process politely, then what is left of its group."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.2)


@pytest.fixture(params=[pytest.param(True, id="direct"), WITH_GATE])
def federation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path / "d", request.param)
    try:
        made.open()
        yield made
    finally:
        made.close()


def test_only_registered_nodes_get_in(federation: Federation, tmp_path: Path) -> None:
    folder = federation.folder
    federation.call("operator/register.sh", str(folder / "operator/keys/node-1.pub"))
    known, log = federation.node(1)
    wait_for(lambda: "SuperNode ID" in log.read_text(), log)

    unknown, refusal = federation.node(2)
    assert unknown.wait(60) == 1
    assert "Exit Code: 305" in refusal.read_text()
    assert "Failed to activate SuperNode" in refusal.read_text()

    # A server that another authority has signed for: the node does not talk to it.
    init_deployment(tmp_path / "other", nodes=1, host="localhost")
    shutil.copy(tmp_path / "other/node-1/ca.crt", folder / "node-2/ca.crt")
    wary, complaint = federation.node(2)
    assert wary.wait(60) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in complaint.read_text()

    listed = json.loads(federation.call("operator/flwr.sh", "supernode", "list", "--format=json"))
    assert [node["status"] for node in listed["nodes"]] == ["online"]
    assert known.poll() is None


@pytest.mark.parametrize("federation", [WITH_GATE], indirect=True)
def test_the_gate_lets_nobody_control_the_server(federation: Federation) -> None:
    inside = ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/pull-task"]
    round_about = ["/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run"]
    assert {federation.status(path) for path in [*inside, *round_about]} == {403}
    assert federation.status("/v1/fleet/activate-node") not in {0, 403, 404}
