"""The host's certificates, made by the real openssl and used in a real TLS handshake."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from needs import needs
from vds_bootstrap import pki
from vds_bootstrap.manifest import Manifest
from vds_bootstrap.pki import Pki

pytestmark = needs("root", "program:openssl")

AGENT = (36, 36)
NAMES = ["host.example", "localhost", "192.0.2.7", "::1"]


@pytest.fixture
def place(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki", AGENT)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path / "state" / "manifest.json")


def content(place: Pki) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.folder.rglob("*.*")}


def handshake(place: Pki, name: str) -> dict[str, object]:
    """Connect as vdscli does, under a name of the server; returns the client's certificate as the server saw it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(place.host_cert, place.host_key)
    server.load_verify_locations(place.ca_cert)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(place.ca_cert))
    client.load_cert_chain(place.client_cert, place.client_key)
    seen: dict[str, object] = {}
    near, far = socket.socketpair()

    def serve() -> None:
        # A client that refuses says so; what it said is the test's business there.
        with contextlib.suppress(ssl.SSLError), server.wrap_socket(far, server_side=True) as connection:
            seen.update(connection.getpeercert() or {})
            connection.sendall(b"x")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(near, server_hostname=name) as connection:
        assert connection.recv(1) == b"x"
    thread.join()
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_certificates_do_for_every_name(place: Pki, manifest: Manifest, name: str) -> None:
    pki.ensure(place, manifest, NAMES)
    assert (("commonName", "vdscli"),) in handshake(place, name)["subject"]  # type: ignore[operator]


def test_another_name_is_refused(place: Pki, manifest: Manifest) -> None:
    pki.ensure(place, manifest, NAMES)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(place, "192.0.2.8")


def test_keys_are_for_their_owners_only(place: Pki, manifest: Manifest) -> None:
    pki.ensure(place, manifest, NAMES)
    found = {path.name: path.stat() for path in place.folder.rglob("*.*")}
    facts = {name: (f"{item.st_mode & 0o777:o}", item.st_uid, item.st_gid) for name, item in found.items()}
    assert facts == {
        "cacert.pem": ("644", 0, 0),
        "cakey.pem": ("600", 0, 0),
        "vdsmcert.pem": ("644", 0, 0),
        "vdsmkey.pem": ("400", *AGENT),
        "vdscli.pem": ("644", 0, 0),
        "vdscli.key": ("640", 0, AGENT[1]),
    }
    assert {Path(entry.name).name for entry in manifest.made() if entry.kind == "file"} == set(facts)


def test_second_time_nothing_is_done(place: Pki, manifest: Manifest) -> None:
    pki.ensure(place, manifest, NAMES)
    before = content(place)
    assert pki.ensure(place, manifest, NAMES) == "all there"
    assert content(place) == before


def test_new_name_of_the_host_gets_a_new_host_certificate_only(place: Pki, manifest: Manifest) -> None:
    pki.ensure(place, manifest, NAMES)
    before = content(place)
    assert pki.ensure(place, manifest, [*NAMES, "new.example"]) == "made: host certificate"
    changed = {Path(name).name for name, data in content(place).items() if before[name] != data}
    assert changed == {"vdsmcert.pem", "vdsmkey.pem"}


def test_certificate_that_ends_soon_is_renewed(place: Pki, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pki, "LEAF_DAYS", 29)
        pki.ensure(place, manifest, NAMES)
    assert pki.ensure(place, manifest, NAMES) == "made: host certificate, client certificate"
    assert pki.ensure(place, manifest, NAMES) == "all there"


def test_certificates_of_a_manager_are_left_alone(place: Pki, manifest: Manifest, tmp_path: Path) -> None:
    pki.ensure(place, manifest, NAMES)
    engine = Pki(tmp_path / "engine", AGENT)
    pki.ensure(engine, Manifest(tmp_path / "other.json"), ["engine.example"])
    for ours, theirs in ((place.ca_cert, engine.ca_cert), (place.host_cert, engine.host_cert)):
        ours.write_bytes(theirs.read_bytes())
    before = content(place)
    assert "left as they are" in pki.ensure(place, manifest, ["quite.another"])
    assert content(place) == before


def test_broken_off_half_way_is_completed(place: Pki, manifest: Manifest) -> None:
    pki.ensure(place, manifest, NAMES)
    place.ca_cert.unlink()
    place.host_key.unlink()
    assert pki.ensure(place, manifest, NAMES) == "made: CA, host certificate, client certificate"
    handshake(place, "localhost")


def test_ca_signs_no_other_ca(place: Pki, manifest: Manifest) -> None:
    pki.ensure(place, manifest, NAMES)
    text = subprocess.run(
        ["openssl", "x509", "-in", place.ca_cert, "-noout", "-text"], capture_output=True, text=True, check=True
    ).stdout
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text
