"""supervdsmd as a process, and its client, over a real socket: what works, who is refused, what is survived."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from needs import needs
from vdsm.base import threads
from vdsm.base.config import Supervdsm
from vdsm.base.errors import (
    BadParameter,
    Busy,
    CommandFailed,
    Denied,
    Failed,
    HypervisorFailed,
    NotResponding,
    Unfinished,
    Unreachable,
    VdsmError,
)
from vdsm.privileged.calls import Hardware, MountOutcome, PathFacts, RepositoryAccess
from vdsm.privileged.client import PrivilegedClient
from vdsm.privileged.local import LocalPrivileged
from vdsm.privileged.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vds_bootstrap.guest import Guest

pytestmark = needs("root", "program:qemu-img")

FROZEN = Path(__file__).with_name("frozen_mount.py")
PATIENCE_S = 20.0


@dataclass
class Daemon:
    process: subprocess.Popen[bytes]
    socket: Path
    log: Path

    def client(self, deadline_s: float = PATIENCE_S) -> PrivilegedClient:
        return PrivilegedClient(self.socket, deadline_s)

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])

    def children(self) -> list[int]:
        done = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    def ends(self) -> int:
        return self.process.wait(PATIENCE_S)


def launch(folder: Path, *, prefix: tuple[str | Path, ...] = (), options: str = "", storage: str = "") -> Daemon:
    run_dir = folder / "run"
    config = folder / "vdsm.toml"
    config.write_text(
        f"[paths]\nrun_dir = '{run_dir}'\nlog_dir = '{folder}'\n[users]\nuser = 'nobody'\n[supervdsm]\n{options}\n"
        f"[storage]\nrepository_dir = '{folder}/dc'\n{storage}\n"
    )
    command = [*prefix, sys.executable, "-m", "vdsm.privileged", "--config", config]
    daemon = Daemon(subprocess.Popen(command), run_dir / "svdsm.sock", folder / "supervdsm.log")
    wait_for(lambda: daemon.log.exists() and "serving on" in daemon.log.read_text())
    return daemon


def wait_for(condition: object) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "gave up waiting"
        time.sleep(0.02)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = launch(tmp_path)
    yield running
    running.process.terminate()
    assert running.ends() == 0
    assert not running.socket.exists()


def qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *words], check=True, stdout=subprocess.DEVNULL)


# What works


def test_hardware_is_the_machines(daemon: Daemon) -> None:
    hardware = daemon.client().hardware()
    assert hardware == daemon.client().hardware()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", hardware.uuid) or hardware == Hardware()
    product = Path("/sys/class/dmi/id/product_name")
    assert hardware.product in {"unknown", product.read_text().strip() if product.exists() else "unknown"}


def test_initiator_name_is_the_files(daemon: Daemon) -> None:
    file = Path("/etc/iscsi/initiatorname.iscsi")
    name = daemon.client().initiator_name()
    assert name in file.read_text() if file.exists() else name == ""


def test_paths_of_every_kind(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "a folder\nwith a line end"
    folder.mkdir()
    file = folder / "file"
    file.write_bytes(bytes(5000))
    link, dangling, loop = folder / "link", folder / "dangling", folder / "loop"
    link.symlink_to(file)
    dangling.symlink_to(folder / "absent")
    loop.symlink_to(loop)
    os.mkfifo(folder / "fifo")
    client = daemon.client()
    for path in (file, link):
        assert client.inspect_path(str(path)) == PathFacts(
            exists=True,
            kind="file",
            real_path=str(file),
            size=5000,
            allocated=file.stat().st_blocks * 512,
            writable_fs=True,
        )
    kinds = {folder / "fifo": "fifo", folder: "directory", daemon.socket: "socket", Path("/dev/null"): "char"}
    for path, kind in kinds.items():
        facts = client.inspect_path(str(path))
        assert (facts.exists, facts.kind, facts.size) == (True, kind, 0)
    absent = client.inspect_path(str(dangling))
    assert absent == PathFacts(exists=False, kind="none", real_path=str(folder / "absent"))
    assert client.inspect_path(f"{file}/below").exists is False
    assert client.inspect_path(str(loop)).kind not in {"file", "block"}


def test_read_only_file_system_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "disk").touch()
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    daemon = launch(tmp_path, prefix=("unshare", "-m", "sh", "-c", script, folder))
    try:
        facts = daemon.client().inspect_path(str(folder / "disk"))
        assert (facts.kind, facts.writable_fs) == ("file", False)
    finally:
        daemon.process.terminate()
        assert daemon.ends() == 0


@pytest.mark.parametrize("path", ["", "relative", "-rf", "/a\0b", "/\udcff", "/" + "x/" * 3000])
def test_what_is_no_absolute_path_is_refused(daemon: Daemon, path: str) -> None:
    with pytest.raises(BadParameter) as caught:
        daemon.client().inspect_path(path)
    assert caught.value.field == "path"


def test_names_that_are_not_utf8_are_refused(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(os.fsdecode(b"bad\xff"))
    with pytest.raises(BadParameter, match="leads to a name that is not UTF-8"):
        daemon.client().inspect_path(str(tmp_path / "link"))
    image = tmp_path / "top.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/bad", "-F", "raw", image, "1M")
    image.write_bytes(image.read_bytes().replace(b"/bad", b"/b\xffd"))
    with pytest.raises(BadParameter, match="a name in it is not UTF-8"):
        daemon.client().inspect_image(str(image), "qcow2")


def test_too_long_name_is_refused(daemon: Daemon) -> None:
    with pytest.raises(BadParameter, match="File name too long"):
        daemon.client().inspect_path("/" + "x" * 300)


def test_image_chain_is_followed(daemon: Daemon, tmp_path: Path) -> None:
    raw, middle, top = tmp_path / "base.raw", tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    qemu_img("create", "-f", "raw", raw, "1M")
    qemu_img("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", middle)
    qemu_img("create", "-f", "qcow2", "-b", middle, "-F", "qcow2", top, "3M")
    client = daemon.client()
    facts = client.inspect_image(str(top), "qcow2")
    assert (facts.format, facts.virtual_size, facts.backing) == ("qcow2", 3 << 20, (str(middle), str(raw)))
    assert facts.data_file is None
    assert client.inspect_image(str(raw), "raw").virtual_size == 1 << 20


def test_raw_image_is_never_looked_into(daemon: Daemon, tmp_path: Path) -> None:
    # A guest may write a qcow2 header with a backing file of its choice into its raw disk.
    trap = tmp_path / "disk.raw"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", trap, "1M")
    facts = daemon.client().inspect_image(str(trap), "raw")
    assert (facts.format, facts.backing) == ("raw", ())


def test_hostile_images_are_refused_or_told(daemon: Daemon, tmp_path: Path) -> None:
    client = daemon.client()
    data = tmp_path / "data.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path}/d.raw", data, "1M")
    assert client.inspect_image(str(data), "qcow2").data_file == f"{tmp_path}/d.raw"

    remote = tmp_path / "remote.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "nbd://example.com/x", "-F", "raw", remote, "1M")
    assert client.inspect_image(str(remote), "qcow2").backing == ("nbd://example.com/x",)

    loop, other = tmp_path / "loop.qcow2", tmp_path / "other.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", other, "-F", "qcow2", loop, "1M")
    qemu_img("create", "-f", "qcow2", "-u", "-b", loop, "-F", "qcow2", other, "1M")
    above_data, above_guess = tmp_path / "above.qcow2", tmp_path / "guess.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", data, "-F", "qcow2", above_data, "1M")
    qemu_img("create", "-f", "qcow2", "-u", "-b", data, "-F", "qcow2", above_guess, "1M")
    # Makes the backing format an extension that nobody knows, as old images have none.
    above_guess.write_bytes(above_guess.read_bytes().replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78", 1))
    vmdk = tmp_path / "vmdk.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", data, "-F", "vmdk", vmdk, "1M")
    absent = tmp_path / "absent.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "/no/such", "-F", "raw", absent, "1M")
    for path, reason in {
        loop: "is a loop",
        above_data: "external data file",
        above_guess: "does not say which format",
        vmdk: "has the format 'vmdk'",
        absent: "/no/such does not exist",
    }.items():
        with pytest.raises(BadParameter, match=reason):
            client.inspect_image(str(path), "qcow2")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"QFI\xfb",
        b"QFI\xfb" + bytes(100),
        b"QFI\xfb" + b"\xff" * 65600,
        # A guest disk of 2**63 bytes with an L1 table that no memory holds.
        struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 9, 1 << 62, 0, 0xFFFFFFFF, 512, 1024, 0xFFFF, 0, 0)
        + bytes(2048),
    ],
)
def test_damaged_images_are_refused_by_field(daemon: Daemon, tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "bad.qcow2"
    image.write_bytes(content)
    with pytest.raises(BadParameter) as caught:
        daemon.client().inspect_image(str(image), "qcow2")
    assert caught.value.field == "format"
    wait_for(lambda: not daemon.children())


@pytest.mark.parametrize("path", ["/dev/null", "/", "/no/such"])
def test_only_files_and_block_devices_are_images(daemon: Daemon, path: str) -> None:
    with pytest.raises(BadParameter) as caught:
        daemon.client().inspect_image(path, "raw")
    assert caught.value.field == "path"


def test_kvm_probe_answers_within_its_deadline_and_leaves_nothing(tmp_path: Path, tiny_guest: Guest) -> None:
    daemon = launch(tmp_path, options="kvm_probe_s = 4")
    try:
        facts = daemon.client().probe_kvm(str(tiny_guest.kernel), str(tiny_guest.initrd))
        assert facts.works is facts.reason.startswith("a guest came up with kvm")
        assert daemon.children() == []
        with pytest.raises(BadParameter, match="initrd: /dev is not a file"):
            daemon.client().probe_kvm(str(tiny_guest.kernel), "/dev")
    finally:
        daemon.process.terminate()
        assert daemon.ends() == 0


# Who is refused


def as_user(name: str, daemon: Daemon) -> str:
    """Ask for the initiator's name in a child of that user; returns what came of it."""
    # It becomes that user only when everything is imported: the project may lie where others cannot read it.
    program = (
        "import os, sys\n"
        "from vdsm.base.errors import VdsmError\n"
        "from vdsm.privileged.client import PrivilegedClient\n"
        "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]))\n"
        "try: print('answer', PrivilegedClient(sys.argv[1], 20).inspect_path('/').kind)\n"
        "except VdsmError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            daemon.socket,
            str(pwd.getpwnam("nobody").pw_gid),
            str(pwd.getpwnam(name).pw_uid),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def reachable(tmp_path: Path) -> Iterator[None]:
    """Let other users into pytest's private directories."""
    changed = {folder: folder.stat().st_mode for folder in [tmp_path, *tmp_path.parents[:2]]}
    for folder, mode in changed.items():
        folder.chmod(mode | 0o111)
    yield
    for folder, mode in changed.items():
        folder.chmod(mode)


@pytest.mark.usefixtures("reachable")
def test_only_root_and_the_configured_user_are_obeyed(daemon: Daemon) -> None:
    assert as_user("nobody", daemon) == "answer directory"
    # Gets through the socket's mode by its group, and is stopped by its user id.
    assert as_user("daemon", daemon) == "Denied"
    daemon.socket.chmod(0o600)
    assert as_user("nobody", daemon) == "Unreachable"
    assert daemon.client().inspect_path("/").kind == "directory"
    assert f"refused user {pwd.getpwnam('daemon').pw_uid} " in daemon.log.read_text()


def test_socket_is_closed_to_others(daemon: Daemon) -> None:
    found = daemon.socket.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, pwd.getpwnam("nobody").pw_gid, 0o660)


# What is survived


def connect(daemon: Daemon) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    client.connect(str(daemon.socket))
    return client


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def receive(client: socket.socket) -> dict[str, object] | None:
    """One frame; None when the connection was closed instead."""
    try:
        head = client.recv(4, socket.MSG_WAITALL)
        if not head:
            return None
        answer: dict[str, object] = json.loads(client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
    except ConnectionResetError:
        return None
    return answer


JUNK = [
    b"\0" * 4,
    framed(b"junk"),
    framed(b"\xff\xfe"),
    framed(b"[]"),
    framed(b"{}"),
    framed(b'{"call": "no_such_call"}'),
    framed(b'{"call": "__init__"}'),
    framed(b'{"call": "_deadline_s"}'),
    framed(b'{"call": 5}'),
    framed(b'{"call": "inspect_path"}'),
    framed(b'{"call": "inspect_path", "args": {"path": 5}}'),
    framed(b'{"call": "inspect_path", "args": {"path": "/", "more": 1}}'),
    framed(b'{"call": "inspect_path", "args": ["/"]}'),
    framed(b'{"call": "inspect_path", "args": {"path": "/"}, "uid": 0}'),
    framed(b'{"call": "inspect_image", "args": {"path": "/", "format": "vmdk"}}'),
    framed(b'{"call": "inspect_path", "args": {"path": "\\ud800"}}'),
    framed(b"[" * 100_000),
]


@pytest.mark.parametrize("data", JUNK, ids=range(len(JUNK)))
def test_junk_is_answered_by_an_error_and_the_connection_goes_on(daemon: Daemon, data: bytes) -> None:
    with connect(daemon) as client:
        client.sendall(data)
        answer = receive(client)
        assert answer is not None
        assert isinstance(answer["error"], dict)
        assert answer["error"]["kind"] == "BadParameter"
        client.sendall(framed(b'{"call": "inspect_path", "args": {"path": "/"}}'))
        assert receive(client)["result"]["kind"] == "directory"  # type: ignore[index]


@pytest.mark.parametrize("length", [1 << 20, (1 << 32) - 1])
def test_oversized_request_is_refused_before_it_is_read(daemon: Daemon, length: int) -> None:
    before = daemon.memory_kib()
    with connect(daemon) as client:
        client.sendall((length + 1 if length == 1 << 20 else length).to_bytes(4, "big") + b"x" * 1000)
        answer = receive(client)
        assert answer is None or answer["error"]["facts"]["field"] == "frame"  # type: ignore[index]
        assert receive(client) is None
    assert daemon.memory_kib() < before + 1024
    assert daemon.client().inspect_path("/").kind == "directory"


def test_bytes_one_at_a_time_make_a_request(daemon: Daemon) -> None:
    with connect(daemon) as client:
        for byte in framed(b'{"call": "inspect_path", "args": {"path": "/"}}'):
            client.sendall(bytes([byte]))
        assert receive(client)["result"]["kind"] == "directory"  # type: ignore[index]


def test_client_that_sends_without_waiting_for_answers_is_cut_off(daemon: Daemon) -> None:
    with connect(daemon) as client:
        client.sendall(framed(b'{"call": "hardware"}') * 50)
        while receive(client) is not None:
            pass
    assert daemon.client().inspect_path("/").kind == "directory"


def test_half_a_request_keeps_nobody_waiting(daemon: Daemon) -> None:
    halves = [connect(daemon) for _ in range(20)]
    for half in halves:
        half.sendall(framed(b'{"call": "hardware"}')[:9])
    assert daemon.client().inspect_path("/").kind == "directory"
    for half in halves:
        half.close()


def test_more_connections_than_allowed_are_told_so(tmp_path: Path) -> None:
    daemon = launch(tmp_path, options="connections = 2")
    try:
        first, second = connect(daemon), connect(daemon)
        with pytest.raises(Busy):
            daemon.client().hardware()
        first.close()
        wait_for(lambda: works(daemon))
        second.close()
    finally:
        daemon.process.terminate()
        assert daemon.ends() == 0


def works(daemon: Daemon) -> bool:
    try:
        return daemon.client().inspect_path("/").exists
    except Busy:
        return False


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[tuple[Daemon, Path]]:
    """A daemon that sees a directory which never answers."""
    mount = tmp_path / "frozen"
    mount.mkdir()
    daemon = launch(
        tmp_path, prefix=(sys.executable, FROZEN, mount), options="call_deadline_s = 3\nworkers = 2\nqueue = 0"
    )
    yield daemon, mount / "disk.qcow2"
    daemon.process.terminate()
    assert daemon.ends() == 0


def test_hanging_call_blocks_no_other_and_ends_unfinished(frozen: tuple[Daemon, Path]) -> None:
    daemon, path = frozen
    outcome: list[BaseException] = []

    def hang() -> None:
        try:
            daemon.client().inspect_image(str(path), "qcow2")
        except VdsmError as error:
            outcome.append(error)

    thread = threads.start("hang", hang)
    wait_for(lambda: stuck(path))
    assert daemon.client().inspect_path("/").kind == "directory"
    assert thread.is_alive()
    thread.join(PATIENCE_S)
    assert [type(error) for error in outcome] == [Unfinished]
    # The program that looked is stuck in the kernel; the worker is free again.
    assert stuck(path)
    assert "cannot be killed" in daemon.log.read_text()
    for _ in range(4):
        assert daemon.client().inspect_path("/").kind == "directory"


def stuck(path: Path) -> bool:
    return any(os.fsencode(path) in command and state == "D" for command, state in processes())


def processes() -> Iterator[tuple[bytes, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
                yield (entry / "cmdline").read_bytes(), status.rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue


def test_client_killed_in_the_middle_of_a_call_is_forgotten(frozen: tuple[Daemon, Path]) -> None:
    daemon, path = frozen
    program = (
        "import sys\n"
        "from vdsm.privileged.client import PrivilegedClient\n"
        "PrivilegedClient(sys.argv[1], 60).inspect_path(sys.argv[2])\n"
    )
    victims = [subprocess.Popen([sys.executable, "-c", program, daemon.socket, path]) for _ in range(2)]
    wait_for(lambda: sum(os.fsencode(path) in command and state == "D" for command, state in processes()) == 2)
    with pytest.raises(Busy, match="supervdsm"):
        daemon.client().hardware()
    for victim in victims:
        victim.kill()
        victim.wait(PATIENCE_S)
    wait_for(lambda: works(daemon))
    assert daemon.process.poll() is None


def test_clients_deadline_holds_and_the_next_call_works(frozen: tuple[Daemon, Path]) -> None:
    daemon, path = frozen
    client = daemon.client(deadline_s=0.3)
    with pytest.raises(Unfinished, match="supervdsm inspect_path"):
        client.inspect_path(str(path))
    assert PrivilegedClient(daemon.socket, PATIENCE_S).inspect_path("/").exists


def test_client_survives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    client = PrivilegedClient(tmp_path / "run" / "svdsm.sock", PATIENCE_S)
    with pytest.raises(Unreachable, match="No such file"):
        client.hardware()
    first = launch(tmp_path)
    assert client.inspect_path("/").exists
    first.process.kill()
    first.ends()
    with pytest.raises(Unreachable, match="Connection refused"):
        client.inspect_path("/")
    first.log.unlink()
    # The socket of the killed one is still there.
    assert first.socket.exists()
    second = launch(tmp_path)
    try:
        assert client.inspect_path("/").exists
        client.close()
        assert client.inspect_path("/").exists
    finally:
        second.process.terminate()
        assert second.ends() == 0


def test_second_daemon_does_not_take_the_first_ones_socket(daemon: Daemon, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vdsm.privileged", "--config", tmp_path / "vdsm.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "another server serves it" in done.stderr
    assert daemon.client().inspect_path("/").exists


def test_other_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "svdsm.sock").write_text("mine")
    (tmp_path / "vdsm.toml").write_text(f"[paths]\nrun_dir = '{tmp_path}/run'\nlog_dir = ''")
    command = [sys.executable, "-m", "vdsm.privileged", "--config", tmp_path / "vdsm.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "something else has this name" in done.stderr
    assert (tmp_path / "run" / "svdsm.sock").read_text() == "mine"


def test_run_directory_that_it_makes_is_the_users(daemon: Daemon) -> None:
    assert daemon.socket.parent.stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_interrupt_ends_it_too(tmp_path: Path) -> None:
    daemon = launch(tmp_path)
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.ends() == 0


def test_many_threads_share_one_client(daemon: Daemon) -> None:
    client = daemon.client()
    answers = threads.tmap(lambda n: client.inspect_path("/").kind, range(60), workers=6, timeout_s=60)
    assert answers == ["directory"] * 60


def test_each_call_is_logged_with_its_seconds(daemon: Daemon) -> None:
    daemon.client().inspect_path("/")
    assert re.search(r"INFO .*inspect_path.* for user 0: \d+\.\d{3} s", daemon.log.read_text())


def test_it_is_small(daemon: Daemon) -> None:
    assert daemon.memory_kib() <= 25 * 1024
    client = daemon.client()
    client.hardware()
    client.inspect_path("/")
    assert daemon.memory_kib() <= 25 * 1024


def test_configuration_is_shown_and_bad_ones_are_refused(tmp_path: Path) -> None:
    def supervdsmd(*options: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vdsm.privileged", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    config = tmp_path / "vdsm.toml"
    config.write_text("[supervdsm]\nworkers = 3")
    shown = supervdsmd("--config", config, "--show-config")
    assert (shown.returncode, "workers = 3" in shown.stdout) == (0, True)
    config.write_text("[supervdsm]\nworker = 3")
    refused = supervdsmd("--config", config)
    assert refused.returncode == 2
    assert "supervdsm.worker: is not an option" in refused.stderr


# Mounts


def test_mounts_over_the_socket_are_below_the_repository_only(daemon: Daemon, tmp_path: Path) -> None:
    client = daemon.client()
    assert client.abandoned() == 0
    client.prepare_repository()
    root, owner = tmp_path / "dc", pwd.getpwnam("nobody")
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (root, root / "mnt", root / "hsm-tasks")} == {
        (owner.pw_uid, owner.pw_gid)
    }
    target, elsewhere = root / "mnt" / "x", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.mkdir()
    try:
        assert client.mount("x", str(target), "tmpfs", "mode=755") == "mounted"
        assert client.mount("x", str(target), "tmpfs", "mode=755") == "already"
        assert target.is_mount()
        assert client.unmount(str(target), force=True, lazy=True) == "unmounted"
        assert client.unmount(str(target), force=True, lazy=True) == "absent"
    finally:
        subprocess.run(["umount", "-lq", target], check=False, timeout=PATIENCE_S)
    # pytest's directory is root's alone: root sees what it is, those who are asked for do not.
    assert client.inspect_access(str(target)) == RepositoryAccess(is_directory=False, agent=False, qemu=False)
    assert client.inspect_access("/") == RepositoryAccess(is_directory=True, agent=False, qemu=True)
    for bad in (
        ("x", str(elsewhere), "tmpfs", ""),
        ("x", str(root / "mnt" / "absent"), "tmpfs", ""),
        ("x", str(target), "fuse.bash", ""),
        ("x", str(target), "tmpfs", "suid"),
    ):
        with pytest.raises(BadParameter):
            client.mount(*bad)
    with pytest.raises(BadParameter):
        client.unmount("/", force=True, lazy=True)
    with pytest.raises(CommandFailed):
        client.mount(str(tmp_path / "absent"), str(target), "ext4", "loop")
    assert not target.is_mount()
    assert not elsewhere.is_mount()


# Errors, in one process: what an implementation raises is what the client raises


class Raising(LocalPrivileged):
    """The real implementation, but for two calls: one raises what the test says, one waits."""

    def __init__(self, error: Exception) -> None:
        super().__init__(call_deadline_s=PATIENCE_S, kvm_probe_s=1)
        self.error = error
        self.go_on = threading.Event()

    def initiator_name(self) -> str:
        raise self.error

    def hardware(self) -> Hardware:
        assert self.go_on.wait(PATIENCE_S)
        return Hardware()


class Local(HypervisorFailed):
    """An error that the protocol does not know."""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[object]:
    servers: list[tuple[Server, threading.Thread]] = []

    def start(implementation: LocalPrivileged, **settings: int) -> PrivilegedClient:
        path = tmp_path / "svdsm.sock"
        server = Server(implementation, path, {0}, Supervdsm(**settings))
        servers.append((server, threads.start("server", server.serve)))
        wait_for(path.exists)
        client = PrivilegedClient(path, PATIENCE_S)
        wait_for(lambda: client.inspect_path("/").exists)
        return client

    yield start
    for server, thread in servers:
        server.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "error",
    [
        BadParameter("path", "is bad {braces}"),
        Denied("x", "root"),
        NotResponding("VM x", 12.5),
        HypervisorFailed("create", "no", number=38),
        Unfinished("x", 1.5),
        Failed("x", "ünïcode \udcff"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_out_as_they_went_in(serve, error: VdsmError) -> None:  # type: ignore[no-untyped-def]
    client = serve(Raising(error))
    with pytest.raises(VdsmError) as caught:
        client.initiator_name()
    assert type(caught.value) is type(error)
    assert {key: str(value).replace("\\udcff", "\udcff") for key, value in caught.value.facts().items()} == {
        key: str(value) for key, value in error.facts().items()
    }


def test_unknown_error_becomes_its_nearest_known_ancestor(serve) -> None:  # type: ignore[no-untyped-def]
    client = serve(Raising(Local("create", "no", number=1)))
    with pytest.raises(HypervisorFailed) as caught:
        client.initiator_name()
    assert type(caught.value) is HypervisorFailed


def test_internal_error_tells_its_kind_and_no_content(serve) -> None:  # type: ignore[no-untyped-def]
    client = serve(Raising(KeyError("hunter2")))
    with pytest.raises(Failed, match="internal error KeyError") as caught:
        client.initiator_name()
    assert "hunter2" not in str(caught.value)


def test_full_pool_says_busy_and_keeps_the_connection(serve) -> None:  # type: ignore[no-untyped-def]
    implementation = Raising(KeyError())
    client = serve(implementation, workers=1, queue=0)
    # The worker of the call before may have a moment to go yet.
    pending = threads.start("pending", wait_for, lambda: not is_busy(client.hardware))
    wait_for(lambda: is_busy(lambda: client.inspect_path("/")))
    implementation.go_on.set()
    pending.join(PATIENCE_S)
    wait_for(lambda: not is_busy(lambda: client.inspect_path("/")))


def is_busy(call: Callable[[], object]) -> bool:
    try:
        call()
    except Busy:
        return True
    return False


class Hanging(LocalPrivileged):
    """The real implementation, but that mounts wait for a server that does not come."""

    def __init__(self) -> None:
        super().__init__(call_deadline_s=PATIENCE_S, kvm_probe_s=1)
        self.mounts: list[str] = []
        self.go_on = threading.Event()

    def mount(self, source: str, target: str, vfs_type: str, options: str) -> MountOutcome:
        self.mounts.append(target)
        assert self.go_on.wait(PATIENCE_S)
        return "mounted"


def test_hanging_mounts_keep_nobody_else_waiting(serve) -> None:  # type: ignore[no-untyped-def]
    implementation = Hanging()
    client = serve(implementation, workers=1, mount_workers=2, queue=0)
    pending = [threads.start("pending", client.mount, "x", f"/{number}", "nfs", "") for number in range(2)]
    wait_for(lambda: len(implementation.mounts) == 2)
    with pytest.raises(Busy):
        client.mount("x", "/y", "nfs", "")
    wait_for(lambda: not is_busy(lambda: client.inspect_path("/")))
    assert all(thread.is_alive() for thread in pending)
    implementation.go_on.set()
    for thread in pending:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_mounts_may_take_longer_than_other_calls(serve, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    implementation = Hanging()
    serve(implementation)
    client = PrivilegedClient(tmp_path / "svdsm.sock", 0.1, mount_deadline_s=PATIENCE_S)
    timer = threading.Timer(0.5, implementation.go_on.set)
    timer.start()
    assert client.mount("x", "/x", "nfs", "") == "mounted"
    hasty = PrivilegedClient(tmp_path / "svdsm.sock", 0.1, mount_deadline_s=0.1)
    implementation.go_on.clear()
    try:
        with pytest.raises(Unfinished, match="supervdsm mount"):
            hasty.mount("x", "/x", "nfs", "")
    finally:
        implementation.go_on.set()
