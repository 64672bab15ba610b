"""Certificates for tests, made with the openssl command: a CA, a host, a manager, and others that must be refused."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from vdsm.bindings.tls import TlsFiles

_EXTENSIONS = """
basicConstraints = critical, CA:FALSE
keyUsage = digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
"""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca.key"
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/O=Test/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", self._key, "-out", self.certificate,
        )  # fmt: skip

    def issue(self, name: str, *, days: int = 30) -> Pair:
        """Sign a certificate for a server or client; negative ``days``: it has expired."""
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        extensions = self._directory / "extensions"
        extensions.write_text(_EXTENSIONS)
        _openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/O=Test/CN={name}",
            "-keyout", pair.key, "-out", request,
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
            "-days", str(days), "-extfile", extensions, "-out", pair.certificate,
        )  # fmt: skip
        return pair


@dataclass(frozen=True)
class Certificates:
    """What a test of the network port needs."""

    authority: Authority
    host: Pair
    manager: Pair
    foreign: Pair
    """Signed by another CA."""
    expired: Pair

    @property
    def host_files(self) -> TlsFiles:
        """For the server."""
        return TlsFiles(self.host.certificate, self.host.key, self.authority.certificate)


def make(directory: Path) -> Certificates:
    """Make all of them; a second or two."""
    authority = Authority(directory / "own", "Test CA")
    other = Authority(directory / "other", "Other CA")
    return Certificates(
        authority,
        host=authority.issue("localhost"),
        manager=authority.issue("engine.example.com"),
        foreign=other.issue("engine.example.com"),
        expired=authority.issue("expired", days=-1),
    )


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
