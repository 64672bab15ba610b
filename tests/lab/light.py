"""A light host: a private libvirtd (and virtlogd) in namespaces of its own, gone with the process that made it.

    test process ─ unshare ─ init (pid 1 of the host: reaps) ─ virtlogd, libvirtd, QEMU …

Private: mounts (/run, /var/lib/libvirt, /etc/libvirt, /var/log/libvirt, /var/cache/libvirt, /dev without kvm),
pids, host name, IPC, and the network on request. Everything else of the file system is the machine's, so a disk
under /tmp is at the same path inside. libvirt is reached from outside through ``LightHost.uri``. Nothing of the
machine's own libvirt is touched, so libvirtd and QEMU may be stopped, killed and restarted at will.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

_PATIENCE_S: Final = 40.0

# No cgroup controllers: the host's /sys shows none. No security driver, no mount namespace per QEMU: the light host
# is the sandbox. QEMU runs as root inside it, which is root of the machine: light hosts are for tests only.
_QEMU_CONF: Final = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
stdio_handler = "file"
nvram = []
cgroup_controllers = []
"""
_LIBVIRTD_CONF: Final = """auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0777"
unix_sock_ro_perms = "0777"
"""
_DEVICES: Final = "null zero full random urandom tty fuse net/tun loop-control"
_INIT: Final = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sys /sys 2>/dev/null || true
mkdir -p /rhev; mount -t tmpfs -o mode=755 rhev /rhev
mkdir $DIR/dev; mount -t tmpfs -o mode=755 dev $DIR/dev
for n in $DEVICES; do
    [ -e /dev/$n ] || continue
    mkdir -p $(dirname $DIR/dev/$n); touch $DIR/dev/$n; mount --bind /dev/$n $DIR/dev/$n
done
for l in /dev/loop[0-9]*; do [ -b $l ] || continue; touch $DIR$l; mount --bind $l $DIR$l; done
mkdir $DIR/dev/pts $DIR/dev/shm
mount -t devpts -o newinstance,ptmxmode=666 pts $DIR/dev/pts; ln -s pts/ptmx $DIR/dev/ptmx
mount -t tmpfs shm $DIR/dev/shm
ln -s /proc/self/fd $DIR/dev/fd; ln -s fd/0 $DIR/dev/stdin; ln -s fd/1 $DIR/dev/stdout; ln -s fd/2 $DIR/dev/stderr
mount --move $DIR/dev /dev
for p in run:/run lib:/var/lib/libvirt etc:/etc/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
    mkdir -p ${p#*:}; mount --bind $DIR/${p%%:*} ${p#*:}
done
mkdir -p /run/lock /run/libvirt
hostname $NAME; ip link set lo up 2>/dev/null || true
touch $DIR/ready
set +e
while :; do sleep 3600 & wait; done
"""


def eventually(found: Callable[[], object], what: str, timeout_s: float = _PATIENCE_S) -> None:
    """Wait until ``found()`` is true; an AssertionError names ``what`` did not come."""
    end = time.monotonic() + timeout_s
    while not found():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class LightHost:
    """One private host; a context manager. ``directory`` must not exist and must have a short path (socket names)."""

    def __init__(self, directory: Path, name: str = "light", *, network: bool = False) -> None:
        self.directory = directory
        self.name = name
        self._network = network
        self._init: subprocess.Popen[bytes] | None = None
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.socket = directory / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///system?socket={self.socket}"
        self.pid = 0  # of the host's pid 1, as the machine sees it

    def __enter__(self) -> Self:
        try:
            self._boot()
            self.start_libvirtd()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- the host

    def _boot(self) -> None:
        for part in ("run", "lib", "etc", "log", "cache"):
            (self.directory / part).mkdir(parents=True)
        (self.directory / "etc/qemu").mkdir()
        (self.directory / "etc/qemu.conf").write_text(_QEMU_CONF)
        (self.directory / "etc/libvirtd.conf").write_text(_LIBVIRTD_CONF)
        if Path("/etc/libvirt/nwfilter").is_dir():
            shutil.copytree("/etc/libvirt/nwfilter", self.directory / "etc/nwfilter")
        argv = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        if self._network:
            argv.append("--net")
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "DIR": str(self.directory),
            "NAME": self.name,
            "DEVICES": _DEVICES,
        }
        log = (self.directory / "init.log").open("wb")
        self._init = self._popen([*argv, "bash", "-c", _INIT], log, environment)
        ready = self.directory / "ready"
        eventually(lambda: ready.exists() or self._init_ended(), "the light host's init")
        if self._init_ended():
            raise RuntimeError((self.directory / "init.log").read_text())
        self.pid = _children(self._init.pid)[0]

    @staticmethod
    def _popen(argv: list[str], log: object, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv],  # gone with us, even when we are killed
            stdin=subprocess.DEVNULL,
            stdout=log,  # type: ignore[arg-type]
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def _init_ended(self) -> bool:
        return self._init is None or self._init.poll() is not None

    def close(self) -> None:
        """Power off: pid 1 of the host dies and everything with it, waited for; its directory is removed."""
        pids = [self.pid, *self._pids()] if self.pid else []
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        for process in (*self._daemons.values(), *([self._init] if self._init else [])):
            process.kill()
            process.wait(timeout=_PATIENCE_S)
        # pid 1 is no child of ours: the kernel ends it when it has ended all others, in its own time.
        eventually(lambda: not any(map(_alive, pids)), f"the end of all processes of {self.name}")
        self._daemons.clear()
        self._init, self.pid = None, 0
        shutil.rmtree(self.directory, ignore_errors=True)

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` inside the host."""
        network = ["-n"] if self._network else []
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-p", *network, "--", *argv]

    def run(self, *argv: str, timeout_s: float = 60.0, check: bool = True) -> str:
        """Run a command inside the host; its output."""
        done = subprocess.run(
            self.enter(*argv), check=False, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
        if check and done.returncode:
            raise RuntimeError(f"{argv}: {done.stdout}{done.stderr}")
        return done.stdout

    # -- libvirtd

    def start_libvirtd(self) -> None:
        """Start virtlogd and libvirtd, wait until libvirt answers."""
        for daemon in ("virtlogd", "libvirtd"):
            if daemon not in self._daemons:
                log = (self.directory / f"{daemon}.log").open("ab")
                self._daemons[daemon] = self._popen(self.enter(daemon), log)
        eventually(self._answers, "libvirtd")

    def _answers(self) -> bool:
        return self.socket.exists() and not subprocess.call(
            ["virsh", "-q", "-c", self.uri, "uri"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def virsh(self, *argv: str, timeout_s: float = 60.0) -> str:
        """Run virsh from outside on this host's libvirt; its output."""
        done = subprocess.run(
            ["virsh", "-q", "-c", self.uri, *argv], check=False, capture_output=True, text=True, timeout=timeout_s
        )
        if done.returncode:
            raise RuntimeError(f"virsh {argv}: {done.stderr}")
        return done.stdout

    @property
    def libvirtd_pid(self) -> int:
        """libvirtd's pid as the machine sees it."""
        return _children(self._daemons["libvirtd"].pid)[0]

    def freeze_libvirtd(self) -> None:
        """Stop libvirtd by SIGSTOP."""
        os.kill(self.libvirtd_pid, signal.SIGSTOP)

    def thaw_libvirtd(self) -> None:
        """Let libvirtd go on."""
        os.kill(self.libvirtd_pid, signal.SIGCONT)
        self._daemons["libvirtd"].send_signal(signal.SIGCONT)  # nsenter stops itself with its child

    def kill_libvirtd(self) -> None:
        """Kill libvirtd (kill -9); its VMs go on."""
        process = self._daemons.pop("libvirtd")
        for child in _children(process.pid):
            os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait(timeout=_PATIENCE_S)

    # -- QEMU

    def qemu_pid(self, vm_id: str) -> int:
        """The pid of a VM's QEMU as the machine sees it.

        Raises:
            LookupError: it has none.
        """
        for pid in self._pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if words[0].startswith(b"/usr/bin/qemu-system") and vm_id.encode() in words:
                    return pid
        raise LookupError(vm_id)

    def _pids(self) -> list[int]:
        """All pids of this host."""
        mine = (Path("/proc") / str(self.pid) / "ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "ns/pid").readlink() == mine:
                        found.append(int(entry.name))
        return found

    def freeze(self, vm_id: str) -> None:
        """Stop a VM's QEMU by SIGSTOP."""
        os.kill(self.qemu_pid(vm_id), signal.SIGSTOP)

    def thaw(self, vm_id: str) -> None:
        """Let a VM's QEMU go on."""
        os.kill(self.qemu_pid(vm_id), signal.SIGCONT)

    def kill_qemu(self, vm_id: str) -> None:
        """Kill a VM's QEMU (kill -9)."""
        os.kill(self.qemu_pid(vm_id), signal.SIGKILL)
