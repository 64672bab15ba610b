"""Guests of light hosts: the tiny guest on bare libvirt, with powers for tests.

    guest = Guest(one, "web", disks=[Disk("/var/lib/vdsm/shared/images/web.raw")])
    guest.boot()
    guest.run("uname -r")            through its agent; guest.console.run() through its serial line
    guest.write_pattern("vda", "seed", 0, 1 << 20)
    guest.check_pattern("vda", "seed", 0, 1 << 20)        None, or where it is wrong
    guest.dirty_memory(20)    guest.hog_cpu()    guest.freeze_agent()    guest.migrate(two)

It ends with its host.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import libvirt
import libvirt_qemu

from vds_bootstrap import guest as tiny
from vds_bootstrap import initramfs

from . import guest_xml
from .borrowed import CACHE, GUEST
from .deadlines import eventually
from .guest_xml import Disk
from .hosts import Host
from .slots import available_mib

_PATIENCE_S: Final = 60.0
_FILES: Final = Path(__file__).with_name("guest_files")
_QEMU_MIB: Final = 150  # what a QEMU takes beside its guest's memory


class GuestFailed(AssertionError):
    """A guest did not do what it was asked for."""


@dataclass(frozen=True)
class Dirtying:
    """How much memory a guest has written so far."""

    mib: int
    seconds: float

    @property
    def rate(self) -> float:
        """MiB a second."""
        return self.mib / self.seconds if self.seconds else 0.0


def image() -> tiny.Guest:
    """The tiny guest with the lab's powers; made when it is not there."""
    plain = tiny.build(GUEST, GUEST.parent)
    archive = initramfs.Archive()
    digest = hashlib.sha256(plain.initrd.read_bytes())
    for path in sorted(_FILES.iterdir()):
        archive.file(f"bin/{path.name}", path.read_bytes())
        digest.update(path.name.encode() + path.read_bytes())
    made = CACHE / f"guest-{digest.hexdigest()[:12]}.img"
    if not made.exists():
        for stale in CACHE.glob("guest-*.img"):
            stale.unlink(missing_ok=True)
        # The kernel unpacks one archive after the other.
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(f".{uuid.uuid4().hex}")
        partial.write_bytes(plain.initrd.read_bytes() + archive.finished())
        partial.rename(made)
    return tiny.Guest(kernel=plain.kernel, initrd=made)


class Console:
    """A guest's serial line, with a root shell on it. One user at a time."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    @property
    def log(self) -> str:
        """Everything that it said on its present host."""
        path = self._guest.host.directory / f"log/libvirt/qemu/{self._guest.name}.console"
        return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""

    def run(self, command: str, timeout_s: float = _PATIENCE_S) -> str:
        """Run a shell command; what it said.

        Raises:
            GuestFailed: it failed, or did not end in time.
        """
        # The shell echoes what is typed: the marks are put together only when it runs.
        mark = uuid.uuid4().hex[:8]
        line = f"echo 'be''gin {mark}'; ({command}) </dev/null 2>&1; echo \"e\"'nd {mark}' $?\n"
        end = time.monotonic() + timeout_s
        said = b""
        begin, last = f"begin {mark}\r\n".encode(), f"end {mark} ".encode()
        with socket.socket(socket.AF_UNIX) as line_to:
            line_to.settimeout(timeout_s)
            line_to.connect(str(self._guest.host.directory / f"run/lab/{self._guest.name}.console"))
            line_to.sendall(b"\n" + line.encode())
            while not (last in said and said.partition(last)[2].endswith(b"\n")):
                line_to.settimeout(max(0.01, end - time.monotonic()))
                try:
                    said += line_to.recv(4096)
                except TimeoutError:
                    raise GuestFailed(f"{self._guest.name}: {command!r} did not end on the console: {said!r}") from None
                # A shell that was started just now may say other things behind the mark.
                if last in said and b"\n" in said.partition(last)[2]:
                    break
        text = said.partition(begin)[2].partition(last)
        status = text[2].split()[0].decode()
        output = text[0].decode(errors="replace").replace("\r\n", "\n")
        if status != "0":
            raise GuestFailed(f"{self._guest.name}: {command!r} on the console: status {status}: {output}")
        return output


class Guest:
    """One virtual machine with the tiny guest in it. ``host`` is where it runs, also after a migration."""

    def __init__(
        self, host: Host, name: str, *, disks: Sequence[Disk] = (), memory_mib: int = 128, vcpus: int = 1
    ) -> None:
        self.host = host
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.console = Console(self)
        self._disks = list(disks)
        self._memory_mib = memory_mib
        self._vcpus = vcpus

    # -- its life

    def boot(self, timeout_s: float = _PATIENCE_S) -> None:
        """Start it and wait until it is at its console and its agent answers.

        Raises:
            GuestFailed: it did not come up; what its console said is in the error.
            MemoryError: the machine has not the memory for it now.
        """
        if available_mib() < self._memory_mib + _QEMU_MIB:
            raise MemoryError(f"{self.name} needs {self._memory_mib + _QEMU_MIB} MiB")
        marks = self.console.log.count(tiny.MARKER)
        self.host.virt.createXML(self.xml(), 0)
        up = f"{tiny.MARKER} {self.name}"
        try:
            eventually(lambda: self.console.log.count(up) > marks, "the console", timeout_s, 0.02)
            eventually(self.agent_answers, "the agent", timeout_s, 0.02)
        except AssertionError as error:
            raise GuestFailed(
                f"{self.name} on {self.host.name}: {error}; console: {self.console.log[-2000:]}"
            ) from error

    def xml(self) -> str:
        """Its libvirt XML."""
        sizes = {"memory": self._memory_mib, "vcpus": self._vcpus}
        return guest_xml.domain(self.name, self.uuid, image(), self._disks, **sizes)

    @property
    def domain(self) -> libvirt.virDomain:
        """libvirt's handle of it on its present host."""
        return self.host.virt.lookupByUUIDString(self.uuid)

    @property
    def status(self) -> tuple[int, int]:
        """libvirt's state and reason (VIR_DOMAIN_...)."""
        state, reason = self.domain.state()
        return state, reason

    @property
    def is_paused(self) -> bool:
        """Whether it stands still, for whatever reason."""
        return self.status[0] == libvirt.VIR_DOMAIN_PAUSED

    @property
    def pid(self) -> int:
        """Its QEMU, as the machine sees it.

        Raises:
            LookupError: it has none on its host.
        """
        for process in self.host.processes():
            if "-uuid" in process.argv and self.uuid in process.argv and "qemu" in process.argv[0]:
                return process.pid
        raise LookupError(f"{self.name} does not run on {self.host.name}")

    def destroy(self) -> None:
        """Switch it off."""
        self.domain.destroy()

    def migrate(self, to: Host, flags: int = 0, **parameters: Any) -> None:
        """Migrate it alive, from libvirtd to libvirtd over TLS. ``parameters`` are libvirt's (bandwidth=8).

        Raises:
            libvirt.libvirtError: it stayed where it was.
        """
        flags |= libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
        wanted = {"migrate_uri": f"tcp://{to.address}", **parameters}
        self.domain.migrateToURI3(to.remote_uri, wanted, flags)
        self.host = to

    # -- its agent

    def agent(self, command: str, timeout_s: int = 10, **arguments: Any) -> Any:
        """Ask its guest agent.

        Raises:
            libvirt.libvirtError: no answer.
        """
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        answer = libvirt_qemu.qemuAgentCommand(self.domain, json.dumps(request), timeout_s, 0)
        return json.loads(answer)["return"]

    def agent_answers(self, timeout_s: int = 2) -> bool:
        """Whether its guest agent answers."""
        try:
            self.agent("guest-ping", timeout_s)
        except libvirt.libvirtError:
            return False
        return True

    def run(self, command: str, timeout_s: float = _PATIENCE_S) -> str:
        """Run a shell command in it, through its agent; what it said.

        Raises:
            GuestFailed: it failed, or did not end in time.
            libvirt.libvirtError: the agent does not answer.
        """
        words: dict[str, Any] = {"path": "/bin/sh", "arg": ["-c", f"exec 2>&1; {command}"], "capture-output": True}
        started = self.agent("guest-exec", **words)["pid"]
        state: dict[str, Any] = {}

        def ended() -> bool:
            state.update(self.agent("guest-exec-status", pid=started))
            return bool(state["exited"])

        eventually(ended, f"the end of {command!r} in {self.name}", timeout_s, 0.02)
        output = base64.b64decode(state.get("out-data", "")).decode(errors="replace")
        if state.get("exitcode") != 0:
            raise GuestFailed(
                f"{self.name}: {command!r}: status {state.get('exitcode', state.get('signal'))}: {output}"
            )
        return output

    # -- its powers

    def start(self, *words: str) -> int:
        """Start a program in it that goes on; its pid there."""
        return int(self.run(f"setsid {' '.join(words)} </dev/null >/dev/null 2>&1 & echo $!"))

    def kill(self, pid: int) -> None:
        """End a program in it, with its process group."""
        self.run(f"kill -TERM -{pid}; true")

    def dirty_memory(self, mib_per_s: int, over_mib: int = 32) -> int:
        """Begin to write to its memory at a rate, round and round over so many MiB; its pid, for ``kill``."""
        return self.start("lab-dirty", str(mib_per_s), str(over_mib))

    def dirtied(self) -> Dirtying:
        """How much it has written to its memory."""
        # It is written anew all the time: there are moments without it.
        mib, hundredths = (self.run("cat /run/lab-dirty 2>/dev/null || true").split() or ["0", "0"])[:2]
        return Dirtying(int(mib), int(hundredths) / 100)

    def hog_cpu(self, cpus: int = 1) -> int:
        """Begin to keep virtual CPUs busy; its pid, for ``kill``."""
        return self.start("lab-hog", str(cpus))

    def count(self) -> int:
        """Begin to count, ten times a second; its pid, for ``kill``."""
        return self.start("lab-count")

    def counted(self) -> int:
        """How far it has counted."""
        return int(self.run("cat /run/lab-count 2>/dev/null || echo 0"))

    def write_pattern(self, disk: str, seed: str, offset: int, length: int) -> None:
        """Write a pattern (patterns.py) to a disk, past all caches of the guest."""
        self.run(f"lab-pattern write /dev/{disk} {seed} {offset} {length}")

    def check_pattern(self, disk: str, seed: str, offset: int, length: int) -> int | None:
        """The offset of the first byte that is not the pattern's, as the guest reads its disk; None when all are."""
        said = self.run(f"lab-pattern check /dev/{disk} {seed} {offset} {length} || true")
        return int(said.split()[0]) if said.strip() else None

    def freeze_agent(self) -> None:
        """Stop its guest agent: it stays connected and does not answer."""
        self.console.run("kill -STOP $(pidof qemu-ga)")

    def thaw_agent(self) -> None:
        """Let its guest agent go on."""
        self.console.run("kill -CONT $(pidof qemu-ga)")


def make_disk(path: Path, size: int, image_format: str = "raw") -> None:
    """Make an empty disk's file; raw ones are sparse."""
    if image_format == "raw":
        with path.open("wb") as file:
            file.truncate(size)
        return
    argv = ["qemu-img", "create", "-q", "-f", image_format, str(path), str(size)]
    subprocess.run(argv, check=True, timeout=60)
