"""A certificate authority for one host, and the host's and its administrator's certificates.

    certs/cacert.pem        who is trusted                    keys/cakey.pem      root only; exists: the CA is ours
    certs/vdsmcert.pem      the host, server and client       keys/vdsmkey.pem    the agent only
    clients/vdscli.pem      for vdscli --host, client         clients/vdscli.key  root and the agent's group

The names are those an oVirt Engine uses when it enrolls a host: it then puts its own certificates in their place.
Those are never touched: they are not signed by the key in keys/cakey.pem.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import secrets
import socket
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vds_bootstrap.account import directory
from vds_bootstrap.programs import ProgramFailed, run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vds_bootstrap.manifest import Manifest

CA_DAYS = 3650
LEAF_DAYS = 398  # the longest that browsers and Apple's libraries accept
RENEW_BEFORE_S = 30 * 24 * 3600
SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class Pki:
    """The files below one directory, and who may read the keys."""

    folder: Path
    owner: tuple[int, int]  # uid and gid of the agent

    @property
    def ca_cert(self) -> Path:
        """Who is trusted."""
        return self.folder / "certs" / "cacert.pem"

    @property
    def ca_key(self) -> Path:
        """The CA's private key; only root can read it."""
        return self.folder / "keys" / "cakey.pem"

    @property
    def host_cert(self) -> Path:
        """The host's certificate."""
        return self.folder / "certs" / "vdsmcert.pem"

    @property
    def host_key(self) -> Path:
        """The host's private key."""
        return self.folder / "keys" / "vdsmkey.pem"

    @property
    def client_cert(self) -> Path:
        """The certificate of vdscli."""
        return self.folder / "clients" / "vdscli.pem"

    @property
    def client_key(self) -> Path:
        """The private key of vdscli."""
        return self.folder / "clients" / "vdscli.key"


def ensure(pki: Pki, manifest: Manifest, names: Iterable[str] | None = None) -> str:
    """Make what is absent and renew what ends soon; returns what was found or done.

    Args:
        pki: where, and for whom.
        manifest: gets every file and directory that is made.
        names: host names and addresses for the host's certificate; None: those of this machine.

    Raises:
        ProgramFailed: openssl refused.
    """
    if is_foreign(pki):
        return "certificates of a manager are in place; left as they are"
    for folder in (pki.folder, pki.ca_cert.parent, pki.ca_key.parent, pki.client_cert.parent):
        directory(folder, 0o755, (0, 0), manifest)
    wanted = sorted(set(own_names() if names is None else names))
    made = []
    new_ca = not pki.ca_cert.exists() or _ends_soon(pki.ca_cert)
    if new_ca:
        _make_ca(pki, manifest)
        made.append("CA")
    if new_ca or not _is_good(pki.host_cert, pki.host_key, wanted):
        _issue(pki, manifest, _host_leaf(pki, wanted))
        made.append("host certificate")
    if new_ca or not _is_good(pki.client_cert, pki.client_key, []):
        _issue(pki, manifest, _client_leaf(pki))
        made.append("client certificate")
    return f"made: {', '.join(made)}" if made else "all there"


def is_foreign(pki: Pki) -> bool:
    """Whether somebody else, an Engine for instance, put certificates here."""
    if pki.ca_cert.exists():
        return not _is_signed_by_us(pki)
    return not pki.ca_key.exists() and (pki.host_cert.exists() or pki.host_key.exists())


def _is_signed_by_us(pki: Pki) -> bool:
    """Whether the CA certificate in place belongs to this host's own CA key."""
    if not pki.ca_key.exists():
        return False
    try:
        certified = run(["openssl", "x509", "-in", pki.ca_cert, "-noout", "-pubkey"])
        own = run(["openssl", "pkey", "-in", pki.ca_key, "-pubout"])
    except ProgramFailed:
        return False
    return certified == own


def own_names() -> list[str]:
    """The names and addresses by which this machine can be reached; link-local addresses are left out."""
    host = socket.gethostname()
    return sorted({"localhost", host, socket.getfqdn(host), "127.0.0.1", "::1", *_ipv4(), *_ipv6()} - {""})


@dataclass(frozen=True)
class _Leaf:
    cert: Path
    key: Path
    subject: str
    extensions: str
    owner: tuple[int, int]
    key_mode: int


def _host_leaf(pki: Pki, names: list[str]) -> _Leaf:
    alternatives = ",".join(f"IP:{name}" if _is_address(name) else f"DNS:{name}" for name in names)
    usage = "extendedKeyUsage=serverAuth,clientAuth"
    return _Leaf(
        pki.host_cert,
        pki.host_key,
        f"/O=VDSM/CN={_common_name()}",
        f"{usage}\nsubjectAltName={alternatives}\n",
        pki.owner,
        0o400,
    )


def _client_leaf(pki: Pki) -> _Leaf:
    return _Leaf(
        pki.client_cert,
        pki.client_key,
        "/O=VDSM/CN=vdscli",
        "extendedKeyUsage=clientAuth\n",
        (0, pki.owner[1]),
        0o640,
    )


def _make_ca(pki: Pki, manifest: Manifest) -> None:
    key = _new_key()
    subject = f"/O=VDSM/CN=CA of {_common_name()}"
    certificate = run(
        [
            "openssl", "req", "-x509", "-new", "-key", "/dev/stdin", "-sha256", "-days", str(CA_DAYS),
            "-subj", subject, "-set_serial", _serial(), "-addext", "basicConstraints=critical,CA:true,pathlen:0",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        ],
        stdin=key.encode(),
    )  # fmt: skip
    _put(pki.ca_key, key, 0o600, (0, 0), manifest)
    _put(pki.ca_cert, certificate, 0o644, (0, 0), manifest)


def _issue(pki: Pki, manifest: Manifest, leaf: _Leaf) -> None:
    key = _new_key()
    request = run(
        ["openssl", "req", "-new", "-key", "/dev/stdin", "-sha256", "-subj", leaf.subject], stdin=key.encode()
    )
    text = (
        "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n" + leaf.extensions
    )
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as extensions:
        extensions.write(text)
        extensions.flush()
        certificate = run(
            [
                "openssl", "x509", "-req", "-sha256", "-days", str(LEAF_DAYS), "-CA", pki.ca_cert, "-CAkey", pki.ca_key,
                "-set_serial", _serial(), "-extfile", extensions.name,
            ],
            stdin=request.encode(),
        )  # fmt: skip
    _put(leaf.key, key, leaf.key_mode, leaf.owner, manifest)
    _put(leaf.cert, certificate, 0o644, (0, 0), manifest)


def _new_key() -> str:
    return run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])


def _serial() -> str:
    # Positive and at most 20 octets (RFC 5280, 4.1.2.2).
    return f"0x{secrets.randbits(126) | 1:x}"


def _common_name() -> str:
    # At most 64 characters (RFC 5280, ub-common-name); a slash would end the name in openssl's -subj.
    return socket.gethostname().replace("/", "-")[:50] or "localhost"


def _is_good(cert: Path, key: Path, names: list[str]) -> bool:
    """Whether a certificate is there, lasts long enough, and covers all names."""
    if not cert.exists() or not key.exists() or _ends_soon(cert):
        return False
    if not names:
        return True
    text = run(["openssl", "x509", "-in", cert, "-noout", "-ext", "subjectAltName"])
    covered = {word.partition(":")[2].lower() for word in text.replace(",", " ").split() if ":" in word}
    return {as_openssl_prints(name) for name in names} <= covered


def as_openssl_prints(name: str) -> str:
    """Openssl prints "Address:0:0:0:0:0:0:0:1" for ::1; names as they are."""
    if not _is_address(name) or ":" not in name:
        return name.lower()
    packed = ipaddress.IPv6Address(name).packed
    return ":".join(f"{int.from_bytes(packed[at : at + 2]):x}" for at in range(0, 16, 2))


def _ends_soon(cert: Path) -> bool:
    try:
        run(["openssl", "x509", "-in", cert, "-noout", "-checkend", str(RENEW_BEFORE_S)])
    except ProgramFailed:
        return True
    return False


def _put(path: Path, text: str, mode: int, owner: tuple[int, int], manifest: Manifest) -> None:
    partial = partial_of(path)
    partial.unlink(missing_ok=True)
    manifest.add("file", path)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.chown(partial, *owner)
    partial.chmod(mode)
    partial.replace(path)


def partial_of(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _ipv4() -> list[str]:
    """The first IPv4 address of every interface (SIOCGIFADDR, netdevice(7))."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has none
            found.append(socket.inet_ntoa(answer[20:24]))
    return found


def _ipv6() -> list[str]:
    """The global addresses in /proc/net/if_inet6: 32 digits, index, prefix length, scope (0: global), flags, name."""
    listing = Path("/proc/net/if_inet6")
    rows = [line.split() for line in listing.read_text(encoding="ascii").splitlines()] if listing.exists() else []
    return [str(ipaddress.IPv6Address(bytes.fromhex(row[0]))) for row in rows if row[3] == "00"]
