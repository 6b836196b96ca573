"""Checks of the connection from a node to the server: name, port, certificate, clock."""

import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from fedrouter.deploy.doctor.finding import Finding

TIMEOUT = 10.0  # seconds
CLOCKS = 5.0  # seconds that clocks may differ: Flower refuses signatures from the future


def server_date(host: str, port: int, authority: Path) -> float | None:
    """The time that a server says it is, in seconds since the epoch; None if it does not say.

    Raises:
        OSError: nothing answers there, or not with a certificate of the authority for the host.
    """
    trust = ssl.create_default_context(cafile=str(authority))
    connection = HTTPSConnection(host, port, timeout=TIMEOUT, context=trust)
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
    except HTTPException as error:
        raise OSError(f"what answers does not speak HTTP ({type(error).__name__})") from error
    finally:
        connection.close()
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (TypeError, ValueError):  # it is no date
        return None


def check_connection(host: str, port: int, authority: Path) -> Iterator[Finding]:
    """The server answers, with its certificate, and its clock is this machine's."""
    try:
        date = server_date(host, port, authority)
    except ssl.SSLCertVerificationError as error:
        yield Finding(
            "server",
            f"{host}:{port} has no certificate of ca.crt for this name: {error.verify_message}",
            "on the server: fedrouter deploy doctor server; is ca.crt here the same as there?",
        )
        return
    except socket.gaierror:
        yield Finding("server", f"no machine is called {host}", "correct the name in start.sh")
        return
    except OSError as error:
        yield Finding(
            "server",
            f"{host}:{port} does not answer ({error})",
            "start it (server/superlink.sh, server/gate.sh), and open its port in firewalls",
        )
        return
    yield Finding("server", f"{host}:{port} answers, with a certificate of ca.crt for this name")
    yield _clock(date)


def _clock(date: float | None) -> Finding:
    if date is None:
        return Finding("clock", "the server does not say its time")
    apart = time.time() - date
    if abs(apart) <= CLOCKS:
        return Finding("clock", "agrees with the server's")
    side = "ahead of" if apart > 0 else "behind"
    return Finding(
        "clock",
        f"is {abs(apart):.0f} s {side} the server's",
        "synchronize both machines' clocks (NTP)",
    )


def check_port(port: int, authority: Path, what: str) -> Iterator[Finding]:
    """A port of the server is free, or this federation's server listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            remedy = "choose a port from 1024 on"
            yield Finding("port", f"{port} ({what}): only root may listen on it", remedy)
            return
        except OSError:
            pass
        else:
            yield Finding("port", f"{port} ({what}) is free: the server is not started yet")
            return
    try:
        server_date("localhost", port, authority)
    except OSError:
        yield Finding(
            "port",
            f"{port} ({what}) is taken by another program",
            "end that program, or make the deployment with another --port",
        )
        return
    yield Finding("port", f"{port} ({what}): this federation's server listens")
