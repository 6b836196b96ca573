"""Checks of certificates and private keys in files."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from fedrouter.deploy.doctor.finding import Finding

SOON = timedelta(days=30)
RENEW = "sign a new one (docs/deploy.md, Changes)"


def check_authority(path: Path) -> Iterator[Finding]:
    """The authority's certificate holds now."""
    yield _dates("authority", _read(path), "set up a new federation: fedrouter deploy init")


def check_server(folder: Path) -> Iterator[Finding]:
    """The server's certificate holds now, is the authority's, and has the server's key."""
    authority, server = _read(folder / "ca.crt"), _read(folder / "server.crt")
    yield _dates("certificate", server, RENEW)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    listed = [str(name.value) for name in names]
    missing = {"localhost", "127.0.0.1"} - set(listed)
    yield Finding(
        "certificate",
        f"it is for {', '.join(listed)}",
        f"sign one that is for {', '.join(sorted(missing))} too" if missing else "",
    )
    yield Finding(
        "certificate",
        *(
            ("this federation's authority has signed it",)
            if _signed(server, authority)
            else ("ca.crt has not signed it", RENEW)
        ),
    )
    key = load_pem_private_key((folder / "server.key").read_bytes(), None)
    same = _public(key.public_key()) == _public(server.public_key())
    yield Finding(
        "certificate",
        "server.key is its key" if same else "server.key is not its key",
        "" if same else "put back the key that it was signed with",
    )


def check_private(path: Path) -> Iterator[Finding]:
    """A private key can be read, by its owner alone."""
    data = path.read_bytes()
    load = load_ssh_private_key if b"OPENSSH" in data else load_pem_private_key
    try:
        load(data, None)
    except ValueError:
        yield Finding("key", f"{path.name} is no private key", "put back the one of this folder")
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield Finding("key", f"{path.name} can be read by others", f"chmod 600 {path}")
    else:
        yield Finding("key", f"{path.name} is its owner's alone")


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise OSError(f"{path} is no certificate") from None


def _dates(check: str, certificate: x509.Certificate, renew: str) -> Finding:
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    if now < certificate.not_valid_before_utc:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        text = f"it is valid from {begins} on, and the clock says {now:%Y-%m-%d %H:%M} UTC"
        return Finding(check, text, "set this machine's clock")
    if now > end:
        return Finding(check, f"it has expired on {end:%Y-%m-%d}", renew)
    left = f"it is valid until {end:%Y-%m-%d}"
    return Finding(check, f"{left}: {(end - now).days} days" if end - now < SOON else left)


def _signed(server: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        server.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _public(key: object) -> bytes:
    data: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return data
