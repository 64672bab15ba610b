"""A fresh host: namespaces in which this machine looks as if VDSM and libvirt had never been set up on it.

    test process ─ unshare ─ init (pid 1 of the host: reaps) ─ make run ─ libvirtd, supervdsmd, vdsmd, QEMU …

Private: /etc and /var (written over the machine's), /run, /rhev; processes; the network (loopback only).
The project and its .venv are the machine's. What is done inside, users and certificates included, is gone with it.
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

PATIENCE_S: Final = 60.0
_INIT: Final = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 layers "$DIR"
for place in etc var; do
    mkdir -p "$DIR/$place" "$DIR/$place.work"
    mount -t overlay -o "lowerdir=/$place,upperdir=$DIR/$place,workdir=$DIR/$place.work" "$place" "/$place"
done
rm -rf /etc/pki/vdsm /etc/vdsm /var/lib/vdsm /var/log/vdsm /var/lib/libvirt/qemu/* /etc/libvirt/qemu/*.xml
mount -t tmpfs -o mode=755 run /run
mkdir -p /rhev; mount -t tmpfs -o mode=755 rhev /rhev
mkdir -p /run/lock
hostname fresh
ip link set lo up
echo ready
set +e
while :; do sleep 3600 & wait; done
"""


def eventually(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition is true; an AssertionError names ``what`` did not come."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.05)


class FreshHost:
    """One private host; a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid = 0  # of the host's pid 1, as the machine sees it
        self._init: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        (self.directory / "layers").mkdir()
        log = self.directory / "init.log"
        argv = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--uts", "--ipc", "--pid", "--net"]
        self._init = subprocess.Popen(
            [*argv, "--fork", "--kill-child", "bash", "-c", _INIT],
            stdin=subprocess.DEVNULL,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "DIR": str(self.directory / "layers")},
        )
        eventually(lambda: log.read_text() or self._ended(), "the host's init")
        assert log.read_text() == "ready\n", log.read_text()
        (child,) = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self.pid = int(child)
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._init is not None
        os.kill(self.pid, signal.SIGKILL)
        self._init.wait(PATIENCE_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _ended(self) -> bool:
        return self._init is None or self._init.poll() is not None

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` inside the host, in the project's directory."""
        project = Path(__file__).resolve().parents[2]
        # Nothing of a "make test" around us: make would hand its flags and ARGS on.
        unset = [
            word for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS") for word in ("-u", name)
        ]
        entering = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-p", "-n", f"--wd={project}"]
        return ["env", *unset, *entering, "--", *argv]

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command inside the host; its output, standard error included."""
        done = subprocess.run(
            self.enter(*argv), capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def processes(self) -> dict[int, str]:
        """Everything that runs in the host but its init: pid as the machine sees it -> command."""
        mine = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                inside = (path / "ns/pid").readlink() == mine and int(path.name) != self.pid
                # A kernel thread, a zombie and what is just being reaped have no command line.
                if inside and command and not command.startswith("sleep 3600"):
                    found[int(path.name)] = command
        return found

    def mounts(self) -> list[str]:
        """The mount points of the host's first process."""
        return Path(f"/proc/{self.pid}/mounts").read_text().splitlines()

    def tree(self, folder: str) -> dict[str, bytes | str]:
        """The content of all files below a directory of the host, by path."""
        found: dict[str, bytes | str] = {}
        root = Path(f"/proc/{self.pid}/root{folder}")
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = path.read_bytes()
            else:
                found[name] = "directory"
        return found
