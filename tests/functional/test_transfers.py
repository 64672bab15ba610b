"""Uploads and downloads with the real image daemon and qemu-nbd: content, sparseness, cuts, crashes, refusals."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from needs import needs
from transfer_host import Host
from vds_bootstrap import transfers as left_behind
from vdscli import image_download, image_upload
from vdscli.failures import CliError
from vdscli.transfer import moves, wire
from vdsm.api.transfer import ImageTicket, NbdConfig
from vdsm.base.errors import BadParameter
from vdsm.transfers.errors import NbdServerExists, NbdServerFailed, NoImageDaemon, NoSuchTicket
from vdsm.transfers.imageio_daemon import DaemonSettings
from vdsm.transfers.nbd_servers import NbdServers
from vdsm.transfers.tickets import Tickets

pytestmark = needs("program:qemu-nbd", "program:qemu-img")

MIB = 1 << 20
SIZE = 40 * MIB
PATIENCE_S = 30.0


@pytest.fixture
def root() -> Iterator[Path]:
    # Unix sockets have short names; and /tmp may be a tmpfs, where direct I/O is another story.
    made = Path(tempfile.mkdtemp(prefix="vt", dir="/var/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def host(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XDG_STATE_HOME", str(root / "state"))
    made = Host(root)
    yield made
    made.stop()
    assert not list(made.run.rglob("*")), "nothing is left in the run directory"


@pytest.fixture
def raw(root: Path) -> Path:
    """Half data, half holes, and a part of written zeros; not a multiple of any block."""
    path = root / "disk.raw"
    noise = random.Random(4)
    with path.open("wb") as file:
        for start in range(0, SIZE, 10 * MIB):
            file.seek(start)
            file.write(noise.randbytes(4 * MIB))
        file.seek(16 * MIB)
        file.write(bytes(2 * MIB))
        file.truncate(SIZE + 1000)
    return path


def digest(path: Path, size: int | None = None) -> str:
    data = path.read_bytes()
    return hashlib.sha256(data + bytes((size or len(data)) - len(data))).hexdigest()


def content(path: Path, kind: str) -> bytes:
    target = path.with_name("content")
    subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", path, target], check=True)
    data = target.read_bytes()
    target.unlink()
    return data


def only(host: Host) -> Any:
    assert len(host.volumes) == 1
    return next(iter(host.volumes.values()))


def wait_until(reached: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < until_s
        time.sleep(0.02)


class TestUpload:
    @pytest.mark.parametrize("connections", [1, 4])
    def test_a_raw_file_arrives_and_stays_sparse(self, host: Host, raw: Path, connections: int):
        image_upload.upload(host.session(file=str(raw), connections=connections))
        volume = only(host)
        assert volume.legality == "LEGAL"
        assert volume.capacity == SIZE + 4096
        assert digest(volume.path) == digest(raw, volume.capacity)
        assert volume.path.stat().st_blocks * 512 <= 17 * MIB
        assert not list((host.root / "state").rglob("*.json"))
        assert host.servers.running() == []

    def test_a_raw_file_fills_a_qcow2_volume(self, host: Host, raw: Path):
        image_upload.upload(host.session(file=str(raw), volume_format="qcow2"))
        volume = only(host)
        assert volume.format == "COW"
        assert content(volume.path, "qcow2")[: SIZE + 1000] == raw.read_bytes()
        assert volume.path.stat().st_blocks * 512 <= 18 * MIB

    @pytest.mark.parametrize("data_mib", [0, 30])
    def test_a_qcow2_file_goes_byte_for_byte(self, host: Host, root: Path, data_mib: int):
        disk = root / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
        if data_mib:
            command = f"write -P 7 1M {data_mib}M"
            subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, disk], check=True, capture_output=True)
        image_upload.upload(host.session(file=str(disk)))
        volume = only(host)
        assert (volume.format, volume.capacity) == ("COW", 64 * MIB)
        assert volume.path.read_bytes()[: disk.stat().st_size] == disk.read_bytes()
        assert content(volume.path, "qcow2") == content(disk, "qcow2")
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", volume.path], check=True)

    def test_an_existing_volume_is_overwritten_and_illegal_meanwhile(self, host: Host, raw: Path):
        ident = host.make(64 * MIB)
        volume = only(host)
        volume.path.write_bytes(b"\xff" * 64 * MIB)
        seen = []
        session = host.session(
            file=str(raw), image=ident, volume=ident, out=Stopping(lambda: seen.append(volume.legality))
        )
        image_upload.upload(session)
        assert set(seen) == {"ILLEGAL"}
        assert volume.legality == "LEGAL"
        assert volume.path.read_bytes()[: SIZE + 4096] == raw.read_bytes() + bytes(4096 - 1000)

    def test_interrupted_it_goes_on_where_it_was(self, host: Host, raw: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(moves, "_SAVE_S", 0.0)
        moved = counted(monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            image_upload.upload(host.session(file=str(raw), connections=1, out=Stopping(interrupt, after=2)))
        volume = only(host)
        assert volume.legality == "ILLEGAL"
        assert host.tickets.daemon.is_running()
        assert not (host.run / "imageio" / "tickets.json").exists()
        image_upload.upload(host.session(file=str(raw)))
        assert only(host) is volume
        assert volume.legality == "LEGAL"
        assert digest(volume.path) == digest(raw, volume.capacity)
        assert 0 < moved[1] < moved[0]

    def test_a_changed_file_begins_anew(self, host: Host, raw: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(moves, "_SAVE_S", 0.0)
        moved = counted(monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            image_upload.upload(host.session(file=str(raw), connections=1, out=Stopping(interrupt, after=2)))
        with raw.open("r+b") as file:
            file.write(b"other")
        image_upload.upload(host.session(file=str(raw)))
        assert digest(only(host).path) == digest(raw, SIZE + 4096)
        assert moved[0] == moved[1]

    def test_the_death_of_the_daemon_is_outlived(self, host: Host, raw: Path):
        first: list[int] = []

        def kill() -> None:
            if not first:
                identity = json.loads((host.run / "imageio" / "daemon.json").read_bytes())
                first.append(identity["pid"])
                os.kill(first[0], signal.SIGKILL)

        image_upload.upload(host.session(file=str(raw), connections=2, out=Stopping(kill)))
        assert first
        assert digest(only(host).path) == digest(raw, SIZE + 4096)
        assert only(host).legality == "LEGAL"

    def test_a_wrong_checksum_leaves_nothing(self, host: Host, raw: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("vdscli.transfer.checksum.of_file", lambda _path, _size: "0")
        with pytest.raises(CliError, match="checksums differ"):
            image_upload.upload(host.session(file=str(raw)))
        assert host.volumes == {}
        assert not list((host.root / "state").rglob("*.json"))

    def test_what_cannot_be_uploaded_is_refused(self, host: Host, root: Path, raw: Path):
        standing = root / "standing.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", standing], check=True)
        with pytest.raises(CliError, match="stands on another file"):
            image_upload.upload(host.session(file=str(standing)))
        with pytest.raises(CliError, match="No such file"):
            image_upload.upload(host.session(file=str(root / "none")))
        with pytest.raises(CliError, match="does not exist"):
            image_upload.upload(host.session(file=str(raw), domain=str(uuid.uuid4())))
        ident = host.make(MIB)
        with pytest.raises(CliError, match="smaller"):
            image_upload.upload(host.session(file=str(raw), image=ident, volume=ident))
        assert only(host).legality == "LEGAL"
        assert not list((host.root / "state").rglob("*.json"))


class TestDownload:
    @pytest.mark.parametrize("connections", [1, 4])
    def test_a_raw_volume_arrives_and_stays_sparse(self, host: Host, raw: Path, connections: int):
        ident = host.make(SIZE + 4096)
        shutil.copyfile(raw, only(host).path)
        os.truncate(only(host).path, SIZE + 4096)
        target = host.root / "out"
        image_download.download(host.session(image=ident, file=str(target), connections=connections))
        assert digest(target) == digest(raw, SIZE + 4096)
        assert target.stat().st_blocks * 512 <= 17 * MIB
        assert [path.name for path in host.root.glob(".out*")] == []
        assert host.servers.running() == []

    @pytest.mark.parametrize("kind", ["raw", "qcow2"])
    def test_a_chain_arrives_as_the_guest_sees_it(self, host: Host, raw: Path, kind: str):
        base = host.make(SIZE + 4096)
        shutil.copyfile(raw, only(host).path)
        os.truncate(only(host).path, SIZE + 4096)
        leaf = host.make(SIZE + 4096, "COW", below=base)
        place = host.volumes[base, leaf].path
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 1M", place], check=True, capture_output=True)
        target = host.root / "out"
        image_download.download(host.session(image=base, file=str(target), format=kind))
        expected = bytearray(raw.read_bytes() + bytes(4096 - 1000))
        expected[MIB : 2 * MIB] = b"\x09" * MIB
        assert content(target, kind) == expected

    def test_interrupted_it_goes_on_where_it_was(self, host: Host, raw: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(moves, "_SAVE_S", 0.0)
        moved = counted(monkeypatch)
        ident = host.make(SIZE + 4096)
        shutil.copyfile(raw, only(host).path)
        os.truncate(only(host).path, SIZE + 4096)
        target = host.root / "out"
        with pytest.raises(KeyboardInterrupt):
            image_download.download(
                host.session(image=ident, file=str(target), connections=1, out=Stopping(interrupt, after=2))
            )
        assert not target.exists()
        image_download.download(host.session(image=ident, file=str(target)))
        assert digest(target) == digest(raw, SIZE + 4096)
        assert 0 < moved[1] < moved[0]

    def test_what_cannot_be_downloaded_is_refused(self, host: Host):
        ident = host.make(MIB, legality="ILLEGAL")
        target = host.root / "out"
        with pytest.raises(CliError, match="ILLEGAL"):
            image_download.download(host.session(image=ident, file=str(target)))
        target.touch()
        with pytest.raises(CliError, match="there already"):
            image_download.download(host.session(image=ident, file=str(target)))
        assert target.stat().st_size == 0


class TestDaemon:
    def test_a_foreign_client_comes_over_tls(self, root: Path):
        authority = Authority(root, "Test CA")
        pki = host_pki(root, authority)
        settings = DaemonSettings(
            directory=root / "imageio", address="127.0.0.1", port=free_port(), pki_dir=pki, log_file=root / "log"
        )
        tickets = Tickets(settings)
        try:
            disk = root / "disk"
            disk.write_bytes(b"x" * 4096)
            ticket_id = str(uuid.uuid4())
            ticket = {"uuid": ticket_id, "size": 4096, "timeout": 60, "url": f"file://{disk}", "ops": ["read"]}
            tickets.add(ticket)
            context = ssl.create_default_context(cafile=str(authority.certificate))
            connection = http.client.HTTPSConnection("127.0.0.1", settings.port, timeout=20, context=context)
            connection.request("GET", f"/images/{ticket_id}")
            assert connection.getresponse().read() == b"x" * 4096
            connection.close()
        finally:
            tickets.stop()

    def test_the_next_agent_finds_it_again(self, host: Host):
        ticket_id = str(uuid.uuid4())
        host.tickets.add(dict(ticket_for(host, ticket_id)))
        pid = json.loads((host.run / "imageio" / "daemon.json").read_bytes())["pid"]
        successor = Tickets(host.settings)
        successor.recover()
        assert json.loads((host.run / "imageio" / "daemon.json").read_bytes())["pid"] == pid
        assert successor.get(ticket_id)["size"] == MIB
        successor.extend(ticket_id, 1000)
        assert successor.get(ticket_id)["expires"] > 0
        successor.remove(ticket_id)
        with pytest.raises(NoSuchTicket):
            successor.get(ticket_id)
        successor.remove(ticket_id)
        successor.daemon._stopping.set()

    def test_dead_with_its_agent_it_begins_anew_with_the_tickets(self, host: Host):
        ticket_id = str(uuid.uuid4())
        host.tickets.add(dict(ticket_for(host, ticket_id)))
        host.tickets.daemon._stopping.set()
        os.kill(json.loads((host.run / "imageio" / "daemon.json").read_bytes())["pid"], signal.SIGKILL)
        successor = Tickets(host.settings)
        try:
            successor.recover()
            assert successor.get(ticket_id)["timeout"] == 300
        finally:
            successor.stop()

    def test_make_run_ends_what_a_killed_agent_left(self, host: Host):
        ident = host.make(MIB)
        host.nbd_verbs.start_server(ident, NbdConfig(sd_id=host.domain, img_id=ident, vol_id=ident))
        host.tickets.add(ticket_for(host, ident))
        host.tickets.daemon._stopping.set()
        assert left_behind.stop(host.run, PATIENCE_S) == []
        assert not host.tickets.daemon.is_running()
        assert not is_running(host, ident)
        assert list(host.run.iterdir()) == []
        assert left_behind.stop(host.run, PATIENCE_S) == []

    def test_an_expired_ticket_does_not_come_back(self, host: Host):
        ticket_id = str(uuid.uuid4())
        host.tickets.add({**ticket_for(host, ticket_id), "timeout": 1})
        host.tickets.daemon._stopping.set()
        os.kill(json.loads((host.run / "imageio" / "daemon.json").read_bytes())["pid"], signal.SIGKILL)
        time.sleep(1.1)
        successor = Tickets(host.settings)
        try:
            successor.recover()
            assert not successor.daemon.is_running()
        finally:
            successor.stop()

    def test_without_tickets_there_is_no_daemon(self, host: Host):
        host.tickets.recover()
        with pytest.raises(NoSuchTicket):
            host.ticket_verbs.get_image_ticket(str(uuid.uuid4()))
        host.ticket_verbs.remove_image_ticket(str(uuid.uuid4()))
        assert not host.tickets.daemon.is_running()

    def test_a_program_that_does_not_start_is_named(self, root: Path):
        tickets = Tickets(DaemonSettings(directory=root / "i", program=root / "none", log_file=root / "log"))
        with pytest.raises(NoImageDaemon):
            tickets.add({"uuid": str(uuid.uuid4()), "timeout": 1})
        tickets.stop()

    def test_a_ticket_tells_how_far_it_is(self, host: Host, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(wire, "_UNKNOWN_S", 0.0)
        ident = host.make(4 * MIB)
        volume = only(host)
        ticket_id = str(uuid.uuid4())
        host.ticket_verbs.add_image_ticket(
            ImageTicket(uuid=ticket_id, timeout=2**31 - 1, size=4 * MIB, url=f"file://{volume.path}", ops=("write",))
        )
        connection = wire.ImageConnection(wire.Address(str(host.settings.images_socket)), ticket_id, 5.0)
        connection.write(0, memoryview(b"y" * MIB))
        connection.close()
        info = host.ticket_verbs.get_image_ticket(ticket_id)
        assert (info.transferred, info.active, info.ops, info.timeout) == (MIB, False, ("write",), 2**31 - 1)
        assert info.expires < 2**31
        host.ticket_verbs.extend_image_ticket(ticket_id, 0)
        with pytest.raises(wire.Refused, match="403"):
            impatient(host, ticket_id).zero(0, MIB)
        host.ticket_verbs.remove_image_ticket(ticket_id)
        assert ident


class TestServers:
    def test_the_same_again_is_the_same(self, host: Host):
        ident = host.make(MIB)
        config = NbdConfig(sd_id=host.domain, img_id=ident, vol_id=ident, readonly=True)
        server_id = str(uuid.uuid4())
        url = host.nbd_verbs.start_server(server_id, config)
        assert url == f"nbd:unix:{host.run}/nbd/{server_id}.sock"
        assert host.nbd_verbs.start_server(server_id, config) == url
        with pytest.raises(NbdServerExists):
            host.nbd_verbs.start_server(server_id, NbdConfig(sd_id=host.domain, img_id=ident, vol_id=ident))
        host.nbd_verbs.stop_server(server_id)
        host.nbd_verbs.stop_server(server_id)
        assert list((host.run / "nbd").iterdir()) == []

    def test_the_next_agent_finds_them_again(self, host: Host):
        ident = host.make(MIB)
        config = NbdConfig(sd_id=host.domain, img_id=ident, vol_id=ident, readonly=True)
        alive, dead = str(uuid.uuid4()), str(uuid.uuid4())
        for server_id in (alive, dead):
            host.nbd_verbs.start_server(server_id, config)
        os.kill(json.loads((host.run / "nbd" / f"{dead}.json").read_bytes())["identity"]["pid"], signal.SIGKILL)
        successor = NbdServers(host.run / "nbd")
        wait_until(lambda: not is_running(host, dead))
        successor.recover()
        assert successor.running() == [alive]
        assert sorted(path.name for path in (host.run / "nbd").iterdir()) == [
            f"{alive}.json",
            f"{alive}.log",
            f"{alive}.sock",
        ]
        successor.stop_all()

    def test_what_cannot_be_served_leaves_nothing(self, host: Host):
        ident = host.make(MIB)
        only(host).path.unlink()
        server_id = str(uuid.uuid4())
        with pytest.raises(NbdServerFailed, match="No such file"):
            host.nbd_verbs.start_server(server_id, NbdConfig(sd_id=host.domain, img_id=ident, vol_id=ident))
        assert list((host.run / "nbd").iterdir()) == []

    def test_a_hidden_backing_name_is_not_opened(self, host: Host, root: Path):
        """The header of an uploaded image may name any file of the host."""
        secret = root / "secret"
        secret.write_bytes(b"secret" * 1000)
        ident = host.make(MIB, "COW")
        place = only(host).path
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", secret, "-F", "raw", place, "1M"], check=True
        )
        target = root / "out"
        image_download.download(host.session(image=ident, file=str(target)))
        assert b"secret" not in target.read_bytes()

    def test_a_data_file_is_refused(self, host: Host, root: Path):
        ident = host.make(MIB, "COW")
        place = only(host).path
        options = ["-o", f"data_file={root / 'data'},data_file_raw=on"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, place, "1M"], check=True)
        with pytest.raises(BadParameter, match="another file"):
            host.nbd_verbs.start_server(str(uuid.uuid4()), NbdConfig(sd_id=host.domain, img_id=ident, vol_id=ident))


class Stopping:
    """Output that does something when progress is shown, and there is some."""

    quiet = True
    as_json = False

    def __init__(self, act: Callable[[], object], after: int = 1) -> None:
        self._act = act
        self._left = after

    def progress(self, text: str) -> None:
        self._left -= "  0% of" not in text
        if self._left <= 0:
            self._act()

    def done(self, _text: str, _value: Any) -> None:
        pass

    note = clear_progress = line = lambda *_: None


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def every_piece_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdscli.transfer.bar._STEP_S", 0.0)
    monkeypatch.setattr("vdscli.transfer.pieces.PIECE", 4 * MIB)
    monkeypatch.setattr("vdscli.transfer.pipeline._LOOK_S", 0.01)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pieces each run was to move."""
    found: list[int] = []
    for name in ("upload", "download"):
        original = getattr(moves, name)

        def wrapped(*args: Any, original: Any = original) -> None:
            found.append(len(args[-1].pieces))
            original(*args)

        monkeypatch.setattr(moves, name, wrapped)
    return found


def ticket_for(host: Host, ticket_id: str) -> dict[str, Any]:
    return {"uuid": ticket_id, "size": MIB, "timeout": 300, "url": f"file://{host.root}/x", "ops": ["read"]}


def impatient(host: Host, ticket_id: str) -> wire.ImageConnection:
    return wire.ImageConnection(wire.Address(str(host.settings.images_socket)), ticket_id, 0.0)


def is_running(host: Host, server_id: str) -> bool:
    return any(ident == server_id and host.servers._servers[ident][0].is_alive() for ident in host.servers.running())


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def host_pki(root: Path, authority: Authority) -> Path:
    pair = authority.issue("host")
    places = {"keys/vdsmkey.pem": pair.key, "certs/vdsmcert.pem": pair.certificate}
    for name, path in {**places, "certs/cacert.pem": authority.certificate}.items():
        place = root / "pki" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return root / "pki"


def test_the_api_of_a_volume_is_the_contract_s() -> None:
    """What the command line asks for is what the agent offers."""
    from vdsm.api.contract import verbs_of
    from vdsm.api.image import Image
    from vdsm.api.task import Task
    from vdsm.api.transfer import ImageTickets, Nbd
    from vdsm.api.volume import Volume

    paths = {
        (verb.rest.method, verb.rest.path)
        for each in (Image, Volume, Task, ImageTickets, Nbd)
        for verb in verbs_of(each)
    }
    image = "/storage-domains/{domain_id}/images/{image_id}"
    one = f"{image}/volumes/{{volume_id}}"
    assert {
        ("GET", one),
        ("POST", f"{image}/volumes"),
        ("DELETE", image),
        ("PUT", f"{one}/legality"),
        ("POST", f"{one}/verify-untrusted"),
        ("POST", f"{image}/prepare"),
        ("POST", f"{image}/teardown"),
        ("POST", "/nbd-servers/{server_id}"),
        ("DELETE", "/nbd-servers/{server_id}"),
        ("POST", "/image-tickets"),
        ("DELETE", "/image-tickets/{uuid}"),
        ("GET", "/tasks/{task_id}"),
        ("DELETE", "/tasks/{task_id}"),
    } <= paths
