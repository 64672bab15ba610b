"""libvirt's daemons: the machine's own when they run, else our own for as long as they are needed.

Ours are started with a configuration of our own (in the run directory), so that the agent's user may use them and
/etc stays as it is; a relay stands in between where the machine's own admits nobody but root. Foreign autostart
networks and domains are not started by us: libvirt starts them once per boot, at the first start of its daemon, and
takes the stamps ``autostarted`` as the sign that it happened.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vds_bootstrap import account, processes
from vds_bootstrap.layout import PROJECT
from vds_bootstrap.processes import Daemon, Process
from vds_bootstrap.programs import ProgramFailed, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from vds_bootstrap.layout import Layout

LIBVIRT_RUN: Final = Path("/run/libvirt")
LIBVIRTD_SOCKET: Final = LIBVIRT_RUN / "libvirt-sock"
VIRTLOGD_SOCKET: Final = LIBVIRT_RUN / "virtlogd-sock"
# Modular daemons (other distributions) have a socket per driver.
SOCKETS: Final = (LIBVIRTD_SOCKET, LIBVIRT_RUN / "virtqemud-sock")
STAMPS: Final = tuple(LIBVIRT_RUN / kind / "autostarted" for kind in ("qemu", "network", "storage"))
QEMU_RUN: Final = LIBVIRT_RUN / "qemu"
SYSTEMD: Final = Path("/run/systemd/system")
READY_S: Final = 30.0

CONFIG: Final = """\
# Written by "make run" for the libvirtd that it starts; /etc/libvirt/libvirtd.conf is not used meanwhile.
unix_sock_group = "libvirt"
unix_sock_ro_perms = "0770"
unix_sock_rw_perms = "0770"
auth_unix_ro = "none"
auth_unix_rw = "none"
"""

NO_ACCESS: Final = """\
libvirt runs on this machine already, but it answers neither the user {user} nor root:
    {reason}
Stop that libvirtd (make run then starts its own for as long as it runs), or mend it."""


class NoAccess(RuntimeError):
    """The machine's libvirt lets nobody in; the message says what to do."""


@dataclass(frozen=True)
class Started:
    """What was started here: processes in the order of starting, and files to remove with them."""

    processes: tuple[Process, ...] = ()
    files: tuple[Path, ...] = ()
    units: tuple[str, ...] = ()


def is_running() -> bool:
    """Whether somebody serves libvirt's socket."""
    return any(answers(path) for path in SOCKETS)


def answers(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Access:
    """How the agent reaches libvirt: what was found or done, in words, and the URI."""

    words: str
    uri: str


def ensure(layout: Layout, register: Callable[[Started], None]) -> Access:
    """Make sure that libvirt runs and lets the agent in.

    Args:
        layout: where things are.
        register: is told of everything that was started, at once, so that it can be taken back.

    Raises:
        NoAccess: it runs, but not for the agent's user.
        NotStarted: libvirt's daemons did not come up.
    """
    if layout.libvirt_uri != "qemu:///system":
        return Access(f"{layout.libvirt_uri} is used as configured", layout.libvirt_uri)
    if is_running():
        return _through(layout, register, "the machine's own libvirtd is used")
    if SYSTEMD.is_dir():
        run(["systemctl", "start", "libvirtd.service"], timeout_s=READY_S)
        register(Started(units=("libvirtd.service",)))
        return _through(layout, register, "the machine's own libvirtd was started")
    _start_own(layout, register)
    return Access("started libvirtd for as long as this runs", layout.libvirt_uri)


def foreign_machines(ours: set[str]) -> list[str]:
    """The names of running domains other than ours (given by UUID), from libvirt's own state files."""
    return sorted(machine.name for machine in machines() if machine.uuid not in ours)


@dataclass(frozen=True)
class Machine:
    """A QEMU process that libvirt started."""

    name: str
    uuid: str
    process: Process


def machines() -> list[Machine]:
    """All running QEMU processes that libvirt keeps a pid file of; works with libvirtd dead or alive."""
    found = []
    for path in sorted(QEMU_RUN.glob("*.pid")):
        try:
            pid = int(path.read_text(encoding="ascii"))
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            uuid = words[words.index(b"-uuid") + 1].decode("ascii")
        except (OSError, ValueError):
            continue  # it ended, or the pid is another program's by now
        process = Process.of(path.stem, pid)
        if process.is_alive():
            found.append(Machine(path.stem, uuid, process))
    return found


def _through(layout: Layout, register: Callable[[Started], None], words: str) -> Access:
    """The agent's way to the machine's own libvirtd: straight, or by the relay."""
    uid, gid = account.ids(layout)
    groups = ",".join(str(number) for number in account.supplementary(layout))
    connecting = ["virsh", "-q", "-c", layout.libvirt_uri, "uri"]
    try:
        run(["setpriv", "--reuid", str(uid), "--regid", str(gid), "--groups", groups, "--", *connecting], timeout_s=15)
    except ProgramFailed:
        try:
            run(connecting, timeout_s=15)
        except ProgramFailed as error:
            raise NoAccess(NO_ACCESS.format(user=layout.user, reason=error.reason.strip())) from error
        return Access(f"{words}, through a relay because it admits only root", _start_relay(layout, register, gid))
    return Access(words, layout.libvirt_uri)


def _start_relay(layout: Layout, register: Callable[[Started], None], gid: int) -> str:
    path = layout.run_dir / "libvirt" / "relay.sock"
    path.parent.mkdir(parents=True, exist_ok=True)
    upstream = next(path for path in SOCKETS if answers(path))
    daemon = Daemon(
        "libvirt relay",
        [sys.executable, "-m", "vds_bootstrap", "relay", str(path), str(upstream), str(gid)],
        layout.log_dir / "relay.out",
        env={"PYTHONPATH": str(PROJECT / "src")},
    )
    register(Started(files=(path,)))
    _start(daemon, path, register)
    return f"qemu+unix:///system?socket={path}"


def _start_own(layout: Layout, register: Callable[[Started], None]) -> None:
    folder = layout.run_dir / "libvirt"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "libvirtd.conf"
    config.write_text(CONFIG, encoding="utf-8")
    stamps = tuple(path for path in STAMPS if not path.exists())
    register(Started(files=(config, *stamps)))
    for path in stamps:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if not answers(VIRTLOGD_SOCKET):
        virtlogd = _daemon(layout, "virtlogd", [])
        _start(virtlogd, VIRTLOGD_SOCKET, register)
    libvirtd = _daemon(layout, "libvirtd", ["--config", str(config)])
    _start(libvirtd, LIBVIRTD_SOCKET, register)


def _daemon(layout: Layout, name: str, words: list[str]) -> Daemon:
    return Daemon(name, [f"/usr/sbin/{name}", *words], layout.log_dir / f"{name}.out", dies_with_us=False)


def _start(daemon: Daemon, path: Path, register: Callable[[Started], None]) -> None:
    process = processes.start(daemon)
    register(Started(processes=(process,)))
    processes.wait_ready(daemon, process, lambda: answers(path), READY_S)
