"""`fedrouter serve`: load a run, listen, answer until stopped."""

import ipaddress
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn

from fedrouter.errors import ConfigError
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.serving.app import make_app
from fedrouter.serving.backend import Backend
from fedrouter.serving.engine import Engine, Limits
from fedrouter.serving.follow import Follower
from fedrouter.serving.local import LocalBackend
from fedrouter.serving.names import ModelNames
from fedrouter.serving.upstream import UpstreamBackend
from fedrouter.serving.upstream_models import UpstreamApi, find_models
from fedrouter.storage.run_folder import RunFolder


@dataclass(frozen=True)
class ServeSettings:
    """How to serve a run.

    Attributes:
        host: the address to listen on.
        port: the port; 0: a free one.
        api_key_file: a file with one key a line; None: no key is asked for.
        insecure: allow an address other than the loopback without keys.
        device: the torch device, or "auto".
        max_tokens: the largest number of tokens of an answer, and the default.
        limits: what the engine takes on.
        follow: serve the newest finished round, of a run that may be training, and each after it.
        upstream: the address of an engine that generates the answers; None: this process does.
        upstream_api: what kind of engine that is.
        upstream_key_file: a file with the key that the engine asks for.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key_file: Path | None = None
    insecure: bool = False
    device: str = "auto"
    max_tokens: int = 512
    limits: Limits = field(default_factory=Limits)
    follow: bool = False
    upstream: str | None = None
    upstream_api: UpstreamApi = "openai"
    upstream_key_file: Path | None = None


def serve(folder: Path, settings: ServeSettings, say: Callable[[str], None] = print) -> None:
    """Serve a run until the process is told to stop.

    Args:
        folder: the run folder.
        settings: how to serve it.
        say: called with what the operator should know.

    Raises:
        ConfigError: the address cannot be used, or it is not the loopback and there is no key.
        RunError: the folder is not a run that can be served.
    """
    keys = read_keys(settings.api_key_file)
    if not keys and not settings.insecure and not is_loopback(settings.host):
        raise ConfigError(
            f"--host {settings.host} can be reached from other machines: give --api-key-file FILE, "
            "or --insecure to answer everybody"
        )
    if settings.follow and settings.upstream is not None:
        raise ConfigError("--follow needs the adapters in this process; leave --upstream out")
    with listening(settings.host, settings.port) as listener, _follower(folder, settings, say) as f:
        model = RoutedModel.load(folder, settings.device) if f is None else f.first()
        backend = _backend(model, folder, settings, f)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        tasks = len(model.multi_adapter.names)
        say(f"serving {folder} with {tasks} tasks on http://{shown}:{port}")
        config = uvicorn.Config(make_app(backend, keys), log_level="warning", lifespan="on")
        uvicorn.Server(config).run(sockets=[listener])


def _follower(
    folder: Path, settings: ServeSettings, say: Callable[[str], None]
) -> AbstractContextManager[Follower | None]:
    if not settings.follow:
        return nullcontext()
    return Follower.open(RunFolder.open(folder), settings.device, say)


def _backend(
    model: RoutedModel, folder: Path, settings: ServeSettings, follower: Follower | None
) -> Backend:
    if settings.upstream is not None:
        return _upstream(model, folder, settings.upstream, settings)
    engine = Engine(model, settings.limits)
    if follower is not None:
        follower.start(engine.replace)
    return LocalBackend(engine, folder, settings.max_tokens)


def _upstream(
    model: RoutedModel, folder: Path, url: str, settings: ServeSettings
) -> UpstreamBackend:
    """The backend that passes requests on, if the engine has the run's adapters.

    Raises:
        ConfigError: the address is none, or the engine does not answer or lacks adapters.
    """

    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--upstream {url!r} should be an address such as http://127.0.0.1:8001")
    address, api = url.rstrip("/").removesuffix("/v1"), settings.upstream_api
    keys = read_keys(settings.upstream_key_file, "--upstream-key-file")
    headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
    timeout = httpx.Timeout(settings.limits.seconds, connect=5.0)
    with httpx.Client(base_url=address, headers=headers, timeout=timeout) as client:
        models = find_models(client, api, ModelNames.of(model, folder), folder.resolve())
    connection = httpx.AsyncClient(base_url=address, headers=headers, timeout=timeout)
    return UpstreamBackend(model, folder, connection, api, models)


def read_keys(path: Path | None, option: str = "--api-key-file") -> tuple[str, ...]:
    """The keys in a file that an option names, one a line.

    Raises:
        ConfigError: the file cannot be read, or has no key.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option} {path} cannot be read ({error}); give a text file") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise ConfigError(f"{option} {path} holds no key; write one on its first line")
    return keys


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the address or the port cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error}); choose others with --host and --port"
        ) from error
