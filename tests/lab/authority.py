"""The lab's certificate authority: certificates with the hosts' addresses, expired ones, and a revocation list."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_CONFIG: Final = """
[ca]
default_ca = lab
[lab]
database = {directory}/index
serial = {directory}/serial
crlnumber = {directory}/crlnumber
new_certs_dir = {directory}/issued
default_md = sha256
default_crl_days = 30
default_days = 30
policy = any
unique_subject = no
copy_extensions = none
[any]
organizationName = optional
commonName = supplied
[host]
basicConstraints = critical, CA:FALSE
keyUsage = digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = {names}
"""


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a directory. Whatever it makes costs some 20 ms."""

    def __init__(self, directory: Path, name: str = "Lab CA") -> None:
        self._directory = directory
        (directory / "issued").mkdir(parents=True)
        (directory / "index").touch()
        (directory / "serial").write_text("1000\n")
        (directory / "crlnumber").write_text("01\n")
        self.certificate = directory / "ca.pem"
        self.crl = directory / "crl.pem"
        self._key = directory / "ca.key"
        _openssl(
            "req", "-x509", *_KEY, "-days", "30", "-subj", f"/O=Lab/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", self._key, "-out", self.certificate,
        )  # fmt: skip
        self._write_crl()

    def issue(self, name: str, addresses: Sequence[str] = (), *, expired: bool = False) -> Identity:
        """Sign a certificate for a server and client at those addresses; an ``expired`` one was good until 2021."""
        serial = (self._directory / "serial").read_text().strip()
        place = self._directory / f"{name}-{serial}"
        request, made = place.with_suffix(".csr"), Identity(place.with_suffix(".pem"), place.with_suffix(".key"))
        names = ",".join([f"DNS:{name}", *(f"IP:{one}" for one in addresses)])
        _openssl("req", *_KEY, "-subj", f"/O=Lab/CN={name}", "-keyout", made.key, "-out", request)
        period = ("-startdate", "20200101000000Z", "-enddate", "20210101000000Z") if expired else ()
        _openssl(
            "ca", "-batch", "-notext", "-config", self._config(names), "-extensions", "host", *period,
            "-cert", self.certificate, "-keyfile", self._key, "-in", request, "-out", made.certificate,
        )  # fmt: skip
        return made

    def revoke(self, identity: Identity) -> None:
        """Put a certificate on the revocation list ``crl``. Who keeps a copy of the list has to take the new one."""
        words = ("-config", self._config(), "-cert", self.certificate, "-keyfile", self._key)
        _openssl("ca", *words, "-revoke", identity.certificate)
        self._write_crl()

    def _write_crl(self) -> None:
        words = ("-config", self._config(), "-cert", self.certificate, "-keyfile", self._key)
        _openssl("ca", *words, "-gencrl", "-out", self.crl)

    def _config(self, names: str = "DNS:nobody") -> Path:
        path = self._directory / "openssl.conf"
        path.write_text(_CONFIG.format(directory=self._directory, names=names))
        return path


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.decode(errors='replace')}")
