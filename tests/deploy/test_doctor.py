"""`fedrouter deploy doctor`: what it finds right, and each fault with its remedy."""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import time

import pytest
from support.flower_processes import BIN, free_port

from fedrouter.deploy import certificates, init_deployment
from fedrouter.deploy.doctor import Finding, examine
from fedrouter.errors import DeployError


class Dated(BaseHTTPRequestHandler):
    """Answers everything with 403, as the gate does, at a clock that may be wrong."""

    late = 0.0

    def do_HEAD(self) -> None:
        self.send_response_only(403)
        self.send_header("Date", formatdate(time() + self.late, usegmt=True))
        self.end_headers()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment with rows on a node, none of whose processes runs."""
    folder = tmp_path / "federation"
    init_deployment(folder, nodes=1, host="localhost", port=free_port(), direct=True)
    rows = [json.dumps({"instruction": f"a {i}", "response": "b"}) + "\n" for i in range(10)]
    (folder / "node-1/data.jsonl").write_text("".join(rows))
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def server(made: Path) -> Iterator[HTTPServer]:
    """What listens on the port of the deployment, with its certificate."""
    with served(made, made) as one:
        yield one


class served:  # noqa: N801 - a context manager
    """A server on the port of a deployment, with the certificate of one."""

    def __init__(self, made: Path, signed: Path) -> None:
        port = int((made / "node-1/start.sh").read_text().partition("localhost:")[2].split()[0])
        self.http = HTTPServer(("127.0.0.1", port), Dated)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(signed / "server/server.crt", signed / "server/server.key")
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)

    def __enter__(self) -> HTTPServer:
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self.http

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def faults(folder: Path, fingerprint: str | None = None) -> list[Finding]:
    return [one for one in examine(folder, fingerprint) if not one.ok]


def fault(folder: Path, check: str, fingerprint: str | None = None) -> str:
    """Text and remedy of the only fault, which is one of a check."""
    [one] = faults(folder, fingerprint)
    assert one.check == check
    return f"{one.text}; {one.remedy}"


def test_a_deployment_that_is_ready(made: Path, server: HTTPServer) -> None:
    on_server = list(examine(made))
    assert [one for one in on_server if not one.ok] == []
    assert any("this federation's server listens" in one.text for one in on_server)
    fingerprint = on_server[-1].text.rpartition(" ")[2]
    on_node = list(examine(made / "node-1", fingerprint))
    assert [one for one in on_node if not one.ok] == []
    texts = " ".join(one.text for one in on_node)
    assert "client 0: 8 training and 2 test rows" in texts
    assert "agrees with the server's" in texts
    assert "nano is the server's" in texts
    assert not list(made.rglob("state"))  # nothing is changed


def test_a_server_that_is_not_started(made: Path) -> None:
    assert faults(made / "server") == []
    assert "does not answer" in fault(made / "node-1", "server")


def test_a_clock_that_is_wrong(
    made: Path, server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dated, "late", 90.0)
    text = fault(made / "node-1", "clock")
    assert "is 90 s behind the server's" in text or "is 89 s behind the server's" in text
    assert "NTP" in text


def test_another_federations_server(made: Path, tmp_path: Path) -> None:
    init_deployment(tmp_path / "other", nodes=1, host="localhost")
    with served(made, tmp_path / "other"):
        assert "no certificate of ca.crt" in fault(made / "node-1", "server")
        assert "taken by another program" in fault(made / "server", "port")


def test_certificates_that_do_not_hold(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made / "server"
    authority = certificates.make_authority()  # another one
    (folder / "server.crt").write_bytes(
        certificates.make_server(authority, "elsewhere").certificate_pem()
    )
    assert [one.text for one in faults(folder)] == [
        "ca.crt has not signed it",
        "server.key is not its key",
    ]
    monkeypatch.setattr(certificates, "SERVER_DAYS", -1)
    monkeypatch.setattr(certificates, "CLOCK_SKEW", timedelta(days=9))
    expired = certificates.make_server(authority, "a").certificate_pem()
    (folder / "server.crt").write_bytes(expired)
    assert faults(folder)[0].text.startswith("it has expired on ")
    monkeypatch.setattr(certificates, "SERVER_DAYS", 5)
    monkeypatch.setattr(certificates, "CLOCK_SKEW", timedelta(days=-2))
    later = certificates.make_server(authority, "a").certificate_pem()
    (folder / "server.crt").write_bytes(later)
    assert "and the clock says" in faults(folder)[0].text
    (folder / "server.crt").write_text("none")
    assert "is no certificate" in fault(folder, "certificate")


def test_a_key_that_others_can_read(made: Path) -> None:
    (made / "server/server.key").chmod(0o644)
    assert "chmod 600" in fault(made / "server", "key")


def test_other_versions(made: Path) -> None:
    (made / "server/versions.json").write_text('{"fedrouter": "0.0.1", "flwr": "1.0"}')
    texts = [one.text for one in faults(made / "server")]
    assert len(texts) == 2
    assert "the deployment was made with 0.0.1" in texts[0]


def test_programs_that_are_missing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    texts = [one.text for one in faults(made / "server")]
    assert texts == ["flower-superlink is not on the PATH", "flwr is not on the PATH"]


def test_settings_data_state_and_model_of_a_node(made: Path, server: HTTPServer) -> None:
    node = made / "node-1"
    assert "the server's base model abc" in fault(node, "model", "abc")
    (node / "data.jsonl").rename(node / "gone")
    assert "data.jsonl" in fault(node, "data")
    (node / "data.jsonl").write_bytes((node / "gone").read_bytes())
    (node / "node.toml").write_text('data = "data.jsonl"\nstate-dir = "gone"\nmodel = "nano"\n')
    assert "cannot be written" in fault(node, "state")
    (node / "node.toml").write_text("data = 'data.jsonl'")
    assert "lacks 'state-dir'" in fault(node, "data")
    (node / "node.toml").write_text("no TOML")
    assert {one.check for one in faults(node)} == {"trusted", "data", "state", "model"}


def test_trusted_keys_that_do_not_hold(made: Path, server: HTTPServer, tmp_path: Path) -> None:
    node = made / "node-1"
    told = [one.text for one in examine(node) if one.check == "trusted"]
    assert "keys of 1 clients, this one's among them; SHA-256" in told[0]
    right = (node / "trusted_keys").read_bytes()
    init_deployment(tmp_path / "other", nodes=2, host="localhost")
    (node / "trusted_keys").write_bytes((tmp_path / "other/node-1/trusted_keys").read_bytes())
    assert "trusted key of client 0 is not that of its private key" in fault(node, "trusted")
    for lines, said in (
        (b"1" + right[1:], "have none of client 0"),
        (right + right, "line 2 of the trusted keys has a client or a key again"),
        (b"node-1 key", "line 1 of the trusted keys begins with no client's id"),
        (b"0 ssh-rsa AAAA", "line 1 of the trusted keys has no public key of ECDSA"),
    ):
        (node / "trusted_keys").write_bytes(lines)
        assert said in fault(node, "trusted")
    (node / "trusted_keys").unlink()
    assert "trusted_keys" in fault(node, "trusted")
    settings = (node / "node.toml").read_text()
    (node / "node.toml").write_text(settings.replace("node-key =", "no-key ="))
    assert "need each other" in fault(node, "trusted")
    (node / "node.toml").write_text(settings[: settings.index("node-key")])
    told = [one.text for one in examine(node) if one.check == "trusted"]
    assert told == ["node.toml names no trusted-keys: secure sums are not signed"]
    assert faults(node) == []


def test_a_configuration_of_runs_that_is_wrong(made: Path) -> None:
    (made / "server/run.toml").write_text("[federation]\nrouns = 3\n")
    found = faults(made / "server")
    assert {one.check for one in found} == {"run.toml", "model"}
    assert "rouns" in found[0].text + found[0].remedy


def test_the_command(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedrouter", "deploy", "doctor"]
    ran = subprocess.run(
        [*command, str(made / "node-1"), "--json"], capture_output=True, text=True, check=False
    )
    said = json.loads(ran.stdout)
    assert (ran.returncode, said["ok"]) == (2, False)
    assert [one["check"] for one in said["findings"] if not one["ok"]] == ["server"]
    with pytest.raises(DeployError, match="deploy init"):
        list(examine(tmp_path))
