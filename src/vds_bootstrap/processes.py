"""Long-running processes that the bootstrap starts: never mistaken for others, and ended in bounded time.

A process is known by its pid and its start time (field 22 of /proc/PID/stat), so that nothing is ever sent to a
process that was not started here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

POLL_S = 0.02
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NotStarted(RuntimeError):
    """A daemon ended at once or did not get ready in time; carries the end of what it wrote."""


@dataclass(frozen=True)
class Process:
    """A process that was started here (or by libvirt for us)."""

    name: str
    pid: int
    start_time: int

    @classmethod
    def of(cls, name: str, pid: int) -> Process:
        """The process that has this pid now."""
        return cls(name, pid, _start_time(pid))

    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return self.start_time != 0 and _start_time(self.pid) == self.start_time

    def stop(self, patience_s: float) -> bool:
        """Ask it to end, and kill it when it has not within ``patience_s``; returns whether it is gone."""
        for number, seconds in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
            self._send(number)
            if wait_until(lambda: not self.is_alive(), seconds):
                return True
        return False

    def _send(self, number: int) -> None:
        if not self.is_alive():
            return
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Asked again through the descriptor's process: between the two the pid may have got another owner.
            if self.is_alive():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Identity:
    """The user that a daemon runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Daemon:
    """How a daemon is started: its command, its user (None: as we are) and where its output goes.

    ``dies_with_us``: the kernel sends it SIGTERM when this process ends in any way.
    """

    name: str
    argv: Sequence[str]
    output: Path
    identity: Identity | None = None
    env: Mapping[str, str] | None = None
    dies_with_us: bool = True
    visible_project: tuple[Path, Path] | None = None


def start(daemon: Daemon) -> Process:
    """Start a daemon in a session of its own, so that the terminal's Ctrl-C does not reach it.

    Raises:
        NotStarted: its program is not there.
    """
    program = daemon.argv[0]
    if not shutil.which(program, path=PATH):
        raise NotStarted(f"{daemon.name}: {program} is not installed")
    argv = _command(daemon)
    environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", **(daemon.env or {})}
    daemon.output.parent.mkdir(parents=True, exist_ok=True)
    with daemon.output.open("wb") as output:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            cwd="/",
        )
    # Popen's own bookkeeping is not needed: children are reaped where is_alive looks at them.
    child.returncode = 0
    return Process.of(daemon.name, child.pid)


def wait_ready(daemon: Daemon, process: Process, is_ready: Callable[[], bool], patience_s: float) -> None:
    """Wait until a daemon is ready.

    Raises:
        NotStarted: it ended, or was not ready within ``patience_s`` seconds.
    """
    wait_until(lambda: is_ready() or not process.is_alive(), patience_s)
    if not process.is_alive():
        raise NotStarted(f"{daemon.name} ended at once:\n{tail(daemon.output)}")
    if not is_ready():
        raise NotStarted(f"{daemon.name} was not ready within {patience_s:.0f} s:\n{tail(daemon.output)}")


def wait_until(condition: Callable[[], bool], patience_s: float) -> bool:
    """Poll a condition; returns whether it came true in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a file, indented; empty when there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def _command(daemon: Daemon) -> list[str]:
    """The command with setpriv (util-linux, on every Debian) in front, which changes the user in the child itself.

    When we are killed in these very milliseconds, nobody would ever end the daemon: so it does not begin then.
    """
    privileges = ["setpriv"]
    if daemon.identity:
        groups = ",".join(str(gid) for gid in sorted({daemon.identity.gid, *daemon.identity.groups}))
        privileges += ["--reuid", str(daemon.identity.uid), "--regid", str(daemon.identity.gid), "--groups", groups]
        privileges += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    if daemon.dies_with_us:
        privileges += ["--pdeathsig", "TERM"]
    orphan_ends = ["sh", "-c", '[ "$PPID" -eq "$1" ] && shift && exec "$@"', "sh", str(os.getpid())]
    command = [*privileges, "--"] if len(privileges) > 1 else []
    command += [*orphan_ends, *daemon.argv]
    if daemon.visible_project is None:
        return command
    # The project may lie where the daemon's user cannot reach it (/root): show it elsewhere, in a mount namespace
    # that lives no longer than the daemon. "slave": what the host mounts later is seen, ours is not seen outside.
    source, target = daemon.visible_project
    script = 'mount --bind -- "$1" "$2" && shift 2 && exec "$@"'
    return [
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-c",
        script,
        "sh",
        str(source),
        str(target),
        *command,
    ]


def _start_time(pid: int) -> int:
    """The start time of a pid in clock ticks since boot; 0 when there is none or it is a zombie (then it is reaped)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    if fields[0] not in "ZX":
        return int(fields[19])
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0  # somebody else's child
    return 0
