"""`fedrouter deploy init`: its files, their modes, certificates and keys."""

import ipaddress
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedrouter.deploy import init_deployment
from fedrouter.engines.flower.node_config import signing_keys
from fedrouter.errors import DeployError, MissingExtraError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "new" / "federation"
    init_deployment(folder, nodes=2, host="fed.example.org", port=9000)
    return folder


def test_each_machine_gets_its_own_files(made: Path) -> None:
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    shared = ["versions.json", "Containerfile", ".dockerignore", "compose.yaml"]
    node = [*shared, "ca.crt", "node.key", "trusted_keys", "node.toml", "start.sh"]
    server = [*shared, "ca.crt", "server.crt", "server.key", "superlink.sh", "gate.sh", "gate.conf"]
    units = ["fedrouter-superlink.service", "fedrouter-gate.service"]
    operator = ["ca.crt", "config.toml", "flwr.sh", "register.sh", "run.sh", "app/pyproject.toml"]
    assert files == {
        "README.md",
        "authority/ca.crt",
        "authority/ca.key",
        *(f"server/{name}" for name in [*server, *units, "run.toml"]),
        *(f"operator/{name}" for name in [*operator, "keys/node-1.pub", "keys/node-2.pub"]),
        *(f"node-1/{name}" for name in [*node, "fedrouter-node-1.service"]),
        *(f"node-2/{name}" for name in [*node, "fedrouter-node-2.service"]),
    }
    assert [path.name for path in made.parent.iterdir()] == ["federation"]  # nothing half-written


def test_private_keys_are_their_owners_alone(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for path in made.rglob("*"):
        if path.suffix == ".key":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if path.suffix == ".sh":
            assert path.stat().st_mode & 0o100
    keys = {path.read_bytes() for path in made.rglob("*.key")}
    assert len(keys) == 4
    for path in made.rglob("*"):
        if path.is_file() and path.suffix != ".key":
            assert b"PRIVATE KEY" not in path.read_bytes(), path


def test_scripts_name_this_federation(made: Path) -> None:
    for path in made.rglob("*"):
        if path.is_file():
            assert "%{" not in path.read_text(), path
    superlink = (made / "server/superlink.sh").read_text()
    assert "--host 127.0.0.1 --port 9001" in superlink
    assert "--enable-supernode-auth" in superlink
    assert "--insecure" not in superlink
    assert "listen 9000 ssl;" in (made / "server/gate.conf").read_text()
    assert "--superlink fed.example.org:9000" in (made / "node-1/start.sh").read_text()
    unit = (made / "node-2/fedrouter-node-2.service").read_text()
    assert "ExecStart=/opt/federation/node-2/start.sh\n" in unit
    for script in made.rglob("*.sh"):
        subprocess.run(["sh", "-n", str(script)], check=True)


def test_the_flower_app_names_the_installed_apps(made: Path) -> None:
    project = tomllib.loads((made / "operator/app/pyproject.toml").read_text())
    apps = pytest.importorskip("fedrouter.engines.flower.apps")
    components = project["tool"]["flwr"]["app"]["components"]
    assert components == {f"{kind}app": f"{apps.__name__}:{kind}" for kind in ("server", "client")}
    assert apps.server and apps.client
    from flwr.supercore.object_ref import validate

    for name in components.values():
        assert validate(name, project_dir=made / "operator/app") == (True, None)


def test_the_run_script_says_whether_the_run_is_finished(made: Path, tmp_path: Path) -> None:
    """With a `flwr` that only prints its arguments, and ends well as the real one always does."""
    fake = tmp_path / "flwr"
    fake.write_text('#!/bin/sh\necho "$FLWR_HOME $*"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(made / "operator/run.sh"), *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    stopped = call("first", "--verbose")
    here = made / "operator"
    settings = "config='run.toml' output='runs/first'"
    asked = f"run {here / 'app'} fedrouter --stream --run-config {settings} --verbose"
    assert stopped.stdout == f"{here} {asked}\n"
    assert (stopped.returncode, "runs/first is not finished" in stopped.stderr) == (1, True)
    (made / "server/runs/first").mkdir(parents=True)
    (made / "server/runs/first/summary.json").write_text("{}")
    assert call("first").returncode == 0
    shutil.rmtree(made / "server/runs")
    assert call().returncode == 2


def test_containers_run_the_scripts_of_their_folders(made: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    init_deployment(tmp_path / "d", nodes=1, host="localhost", direct=True)
    folders = [made / "server", made / "node-1", tmp_path / "d/server", tmp_path / "d/node-1"]
    read = [yaml.safe_load((folder / "compose.yaml").read_text()) for folder in folders]
    assert [list(one["services"]) for one in read] == [
        ["superlink", "gate"],
        ["node"],
        ["superlink"],
        ["node"],
    ]
    for folder, one in zip(folders, read, strict=True):
        for service in one["services"].values():
            assert (folder / service["command"][0]).exists()
            assert service["volumes"] == [".:/federation"]
        assert (folder / next(iter(one["services"].values()))["build"]["dockerfile"]).exists()
        # No key, row or run can get into an image.
        assert (folder / ".dockerignore").read_text().splitlines()[1:] == [
            "*",
            "!*.whl",
            "!constraints.txt",
        ]


def test_settings_are_read_as_toml(made: Path) -> None:
    read = {path.name: tomllib.loads(path.read_text()) for path in (made / "node-2").glob("*.toml")}
    assert read["node.toml"]["client-id"] == 1
    keys = {"node-key", "trusted-keys"}
    assert set(read["node.toml"]) == {"client-id", "data", "state-dir", "model", *keys}
    connection = tomllib.loads((made / "operator/config.toml").read_text())["superlink"]
    authority = str(made / "operator/ca.crt")
    assert connection["default"] == "fedrouter"
    assert connection["fedrouter"] == {"address": "127.0.0.1:9001", "root-certificates": authority}


def test_the_run_configuration_is_one(made: Path) -> None:
    from fedrouter.config import load_config

    assert load_config(made / "server/run.toml", []).federation.clients == 2


def test_the_server_is_signed_for_its_names_and_825_days(made: Path) -> None:
    authority = x509.load_pem_x509_certificate((made / "server/ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((made / "server/server.crt").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 825
    assert (authority.not_valid_after_utc - authority.not_valid_before_utc).days == 3650
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    key = load_pem_private_key((made / "server/server.key").read_bytes(), None)
    assert key.public_key() == server.public_key()
    for copy in ("authority", "operator", "node-1", "node-2"):
        assert (made / copy / "ca.crt").read_bytes() == (made / "server/ca.crt").read_bytes()


def test_node_keys_are_p384_in_opensshs_format(made: Path) -> None:
    for node in ("node-1", "node-2"):
        private = load_ssh_private_key((made / node / "node.key").read_bytes(), None)
        line = (made / f"operator/keys/{node}.pub").read_bytes()
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp384r1"
        assert load_ssh_public_key(line) == private.public_key()
        assert line.startswith(b"ecdsa-sha2-nistp384 ") and line.endswith(f" {node}\n".encode())


def test_nodes_know_each_others_keys(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {(made / node / "trusted_keys").read_bytes() for node in ("node-1", "node-2")}
    assert len(lists) == 1
    for client, node in enumerate(("node-1", "node-2")):
        monkeypatch.chdir(made / node)  # where start.sh starts it
        settings = tomllib.loads((made / node / "node.toml").read_text())
        keys = signing_keys(settings)
        assert keys is not None
        assert keys.private.public_key() == keys.trusted[client]
        line = (made / f"operator/keys/{node}.pub").read_bytes()
        assert load_ssh_public_key(line) == keys.trusted[client]


def test_an_address_is_a_name_too(tmp_path: Path) -> None:
    init_deployment(tmp_path, nodes=1, host="10.0.0.7")  # an empty folder that is there
    server = x509.load_pem_x509_certificate((tmp_path / "server/server.crt").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["10.0.0.7", "127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_direct_has_no_gate(tmp_path: Path) -> None:
    init_deployment(tmp_path, nodes=1, host="localhost", port=65535, direct=True)
    assert not list(tmp_path.rglob("*gate*"))
    assert "--host 0.0.0.0 --port 65535" in (tmp_path / "server/superlink.sh").read_text()
    assert '"127.0.0.1:65535"' in (tmp_path / "operator/config.toml").read_text()


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "a b",
            "a;b",
            "$(id)",
            "*.example.org",
            "-a",
            "a..b",
            "x.",
            "a_b",
            "a\n",
            "ä.example",
        ),
        *("10.0.0.300", "0.0.0.0", "::1", "https://a", "a:80", "a" * 64, ".".join(["abc"] * 64)),
    ],
)
def test_hosts_that_are_none_are_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(DeployError, match="host"):
        init_deployment(tmp_path / "d", nodes=1, host=host)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("nodes", "port"), [(0, 8000), (-1, 8000), (1, 0), (1, 65535)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, nodes: int, port: int) -> None:
    with pytest.raises(DeployError):
        init_deployment(tmp_path / "d", nodes=nodes, host="a", port=port)


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "link").symlink_to("kept")
    for folder in (tmp_path, tmp_path / "kept", tmp_path / "link"):
        with pytest.raises(DeployError, match=r"not empty|no folder"):
            init_deployment(folder, nodes=1, host="a")
    with pytest.raises(DeployError, match="cannot be written"):
        init_deployment(tmp_path / "kept" / "d", nodes=1, host="a")
    with pytest.raises(DeployError, match="name"):
        init_deployment(tmp_path / "a\nb", nodes=1, host="a")
    assert (tmp_path / "kept").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "link"]


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("fedrouter.deploy.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrouter\[flower\]'"):
        init_deployment(tmp_path / "d", nodes=1, host="a")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedrouter", "deploy", "init", str(tmp_path / "d")]
    options = ["--nodes", "2", "--host", "localhost"]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert str(tmp_path / "d" / "README.md") in ran.stdout
    again = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    wrong = f"{tmp_path / 'd'} is not empty; name a new folder or an empty one"
    assert (again.returncode, again.stderr) == (2, f"error: {wrong}\n")
