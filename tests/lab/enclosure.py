"""A light machine without its daemons: namespaces with an init of their own, on the machine's kernel and programs.

    test process ─ setpriv ─ unshare ─ init (pid 1: reaps) ─ whatever is started inside

Private: processes, mounts, host name, IPC, network and, on request, the monotonic clocks. /etc and /var are the
machine's with a layer on top that is forgotten at power-off; what lies in ``STATE`` is kept in the enclosure's
directory, as on a disk. /dev has no kvm. Everything else of the file system is the machine's. It dies with the process
that made it, even by kill -9.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .deadlines import eventually
from .spawning import Spawner

_PATIENCE_S: Final = 60.0
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Name in the directory -> place in the machine.
STATE: Final = {
    "run": "/run",
    "log": "/var/log",
    "tmp": "/var/tmp",
    "libvirt": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "etc-libvirt": "/etc/libvirt",
    "pki": "/etc/pki",
    "etc-vdsm": "/etc/vdsm",
    "vdsm": "/var/lib/vdsm",
}
_FILES: Final = {"hosts": "/etc/hosts", "hostname": "/etc/hostname", "machine-id": "/etc/machine-id"}
_DEVICES: Final = "null zero full random urandom tty fuse net/tun loop-control"
# $DIR, $PROJECT, $NAME, $STATE and $FILES ("name:place ..."), $UUID and $DEVICES come from outside.
_INIT: Final = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sys /sys
mount --bind "$PROJECT" "$DIR/project"
mount -t tmpfs -o mode=755 layers "$DIR/layers"
mkdir -p /rhev; mount -t tmpfs -o mode=755 rhev /rhev
for place in etc var; do
    mkdir "$DIR/layers/$place" "$DIR/layers/$place.work"
    upper="upperdir=$DIR/layers/$place,workdir=$DIR/layers/$place.work"
    mount -t overlay -o "lowerdir=/$place,$upper" "$place" "/$place"
done
for pair in $STATE; do
    mkdir -p "${pair#*:}"; mount --bind "$DIR/${pair%%:*}" "${pair#*:}"
done
for pair in $FILES; do
    [ -e "${pair#*:}" ] || touch "${pair#*:}"
    mount --bind "$DIR/${pair%%:*}" "${pair#*:}"
done
[ ! -e /sys/class/dmi/id/product_uuid ] || mount --bind "$DIR/product_uuid" /sys/class/dmi/id/product_uuid
getent group vdsm >/dev/null || echo "vdsm:x:36:" >>/etc/group
getent passwd vdsm >/dev/null || echo "vdsm:x:36:36::/var/lib/vdsm:/usr/sbin/nologin" >>/etc/passwd

dev="$DIR/dev"
mount -t tmpfs -o mode=755 dev "$dev"
for name in $DEVICES; do
    [ -e "/dev/$name" ] || continue
    mkdir -p "$(dirname "$dev/$name")"; touch "$dev/$name"; mount --bind "/dev/$name" "$dev/$name"
done
mkdir "$dev/pts" "$dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 pts "$dev/pts"; ln -s pts/ptmx "$dev/ptmx"
mount -t tmpfs -o mode=1777 shm "$dev/shm"
ln -s /proc/self/fd "$dev/fd"; ln -s fd/0 "$dev/stdin"; ln -s fd/1 "$dev/stdout"; ln -s fd/2 "$dev/stderr"
mount --move "$dev" /dev

rm -rf /run/*
mkdir -p /run/lock /run/libvirt
hostname "$NAME"
ip link set lo up
# A host that comes up says so: who asked for it in vain a moment ago need not find out by a failure.
echo 1 >/proc/sys/net/ipv4/conf/all/arp_notify
echo "$UUID" >/run/ready
set +e
while :; do sleep 3600 & wait; done
"""


@dataclass(frozen=True)
class Shift:
    """How far a machine's clocks are from the kernel's: seconds."""

    monotonic: int = 0
    boottime: int = 0


@dataclass(frozen=True)
class Process:
    """A process of an enclosure: its number as the machine sees it and its words."""

    pid: int
    argv: tuple[str, ...]


class Enclosure:
    """One set of namespaces. ``directory`` must not exist, and have a short path (sockets lie in it)."""

    def __init__(self, directory: Path, name: str, project: Path, spawner: Spawner, shift: Shift | None = None) -> None:
        self.directory = directory
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.project = directory / "project"
        """Where the project's tree is inside, whoever may look at it outside."""
        self._source = project
        self._spawner = spawner
        self._shift = shift
        self._init: subprocess.Popen[bytes] | None = None
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.pid = 0
        """Of the init, as the machine sees it; 0 while it is off."""
        for part in (*STATE, "layers", "dev", "project"):
            (directory / part).mkdir(parents=True)
        (directory / "tmp").chmod(0o1777)
        texts = {"hosts": f"127.0.0.1 localhost {name}\n", "hostname": f"{name}\n"}
        texts |= {"machine-id": f"{uuid.uuid4().hex}\n", "product_uuid": f"{self.uuid}\n"}
        for file, text in texts.items():
            (directory / file).write_text(text)

    # -- power

    def power_on(self) -> None:
        """Boot; idempotent.

        Raises:
            RuntimeError: its init failed; says why.
        """
        if self.is_on:
            return
        self.power_off()
        argv = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        if self._shift:
            argv += ["--time", "--monotonic", str(self._shift.monotonic), "--boottime", str(self._shift.boottime)]
        log = self.directory / "init.log"
        environment = {
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
            "DIR": str(self.directory),
            "PROJECT": str(self._source),
            "NAME": self.name,
            "UUID": str(uuid.uuid4()),  # so that an earlier life's file is not taken for this one's
            "STATE": " ".join(f"{here}:{there}" for here, there in STATE.items()),
            "FILES": " ".join(f"{here}:{there}" for here, there in _FILES.items()),
            "DEVICES": _DEVICES,
        }
        ready = self.directory / "run/ready"
        script = self.directory / "init.sh"
        script.write_text(_INIT)
        init = self._init = self._spawner.start([*argv, "bash", str(script)], log, env=environment)
        eventually(
            lambda: init.poll() is not None or _says(ready, environment["UUID"]), f"{self.name}'s init", pause_s=0.01
        )
        if init.poll() is not None:
            raise RuntimeError(f"{self.name}'s init: {log.read_text(errors='replace')}")
        self.pid = children(init.pid)[0]

    def power_off(self) -> None:
        """Cut the power: nothing inside gets another instruction. Idempotent."""
        if self.pid and self._init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            # The kernel lets the init go last of all: whoever waits for it waits for everything inside.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._init.wait(timeout=_PATIENCE_S)
        for process in (*self._children.values(), *([self._init] if self._init else [])):
            process.kill()
            process.wait(timeout=_PATIENCE_S)
        self._children.clear()
        self._init, self.pid = None, 0

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._init is not None and self._init.poll() is None

    # -- programs

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` inside, as root."""
        spaces = ["-m", "-u", "-i", "-p", "-n", *(["-T"] if self._shift else [])]
        return ["nsenter", "-t", str(self.pid), *spaces, "--wd=/", "--", *argv]

    def run(self, argv: Sequence[str] | str, *, timeout_s: float = 60.0, check: bool = True, stdin: str = "") -> str:
        """Run a command inside to its end; what it said. A string is a shell's script.

        Raises:
            RuntimeError: it failed (with ``check``); what it said is in the error.
            subprocess.TimeoutExpired: it did not end in time; it is killed.
        """
        words = ["sh", "-c", argv] if isinstance(argv, str) else [str(word) for word in argv]
        done = subprocess.run(
            self.enter(*words),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {argv}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + ("" if check else done.stderr)

    def start(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, user: str = "root") -> int:
        """Start a daemon inside; its pid as the machine sees it. What it says is in log/``name``.out."""
        # Only for the program itself, not for what changes into it (LD_PRELOAD).
        words = ["env", *(f"{key}={value}" for key, value in (env or {}).items()), *argv]
        if user != "root":
            words = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--no-new-privs", "--", *words]
        environment = {"PATH": PATH, "LC_ALL": "C.UTF-8"}
        process = self._spawner.start(self.enter(*words), self.directory / f"log/{name}.out", env=environment)
        self._children[name] = process
        eventually(lambda: process.poll() is not None or children(process.pid), f"{name} on {self.name}", pause_s=0.005)
        return self.pid_of(name)

    def pid_of(self, name: str) -> int:
        """The pid of a daemon that was started by that name, as the machine sees it.

        Raises:
            LookupError: it does not run.
        """
        process = self._children.get(name)
        found = children(process.pid) if process and process.poll() is None else []
        if not found:
            raise LookupError(f"{self.name}: {name} does not run; see log/{name}.out")
        return found[0]

    def stop(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a daemon a signal and wait for its end; its exit status."""
        with contextlib.suppress(LookupError, ProcessLookupError):
            os.kill(self.pid_of(name), number)
        return self._children.pop(name).wait(timeout=_PATIENCE_S)

    # -- processes

    def processes(self) -> list[Process]:
        """Everything that runs inside, its init included."""
        if not self.pid:
            return []
        mine = (Path("/proc") / str(self.pid) / "ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "ns/pid").readlink() == mine:
                        words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                        found.append(Process(int(entry.name), tuple(words[:-1])))
        return found

    def _parents(self) -> Iterator[int]:
        # nsenter waits outside for what it started inside, and stops itself when that is stopped.
        for process in self._children.values():
            if process.poll() is None:
                yield process.pid

    def freeze(self) -> None:
        """Stop everything inside (SIGSTOP). Its network answers nothing but what the kernel answers by itself."""
        eventually(self._stop_all, f"{self.name} to stand still", pause_s=0.005)

    def _stop_all(self) -> bool:
        moving = [process.pid for process in self.processes() if state(process.pid) not in "TtZX"]
        for pid in moving:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return not moving

    def thaw(self) -> None:
        """Let everything inside go on."""
        for pid in (*(process.pid for process in self.processes()), *self._parents()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def thaw_process(self, pid: int) -> None:
        """Let one process go on."""
        for one in (pid, *self._parents()):
            os.kill(one, signal.SIGCONT)

    def remove(self) -> None:
        """Power off for good; its directory is removed."""
        self.power_off()
        shutil.rmtree(self.directory, ignore_errors=True)


def children(pid: int) -> list[int]:
    """The children of a process, of whichever of its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def state(pid: int) -> str:
    """A process's state letter as in ps; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text() == f"{text}\n"
    except OSError:
        return False
