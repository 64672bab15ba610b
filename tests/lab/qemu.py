"""One QEMU process: its command line, its monitor, its power switch.

The same set of devices must be there when a state is saved and when it is restored, so all nodes start alike; what is
particular to one (NICs, disks) is plugged into its spare root ports afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import acceleration
from .deadlines import eventually
from .image import definition
from .image.build import Image
from .qmp import Monitor, MonitorError
from .spawning import Spawner

SLOTS: Final = 10
PORTS: Final = ("test", "people")
CPUS: Final = 2
MEMORY_MIB: Final = 1024
PROJECT_MIB: Final = 192
_PATIENCE_S: Final = 60.0
# Without one the machine has no product_uuid file that a clone could put its own over.
_TEMPLATE_UUID: Final = "6c616200-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Memory:
    """Where a machine's RAM is: in a file (``shared``: writes reach it), or nowhere but in the process."""

    path: Path | None = None
    shared: bool = False

    def option(self) -> str:
        """The argument of -object."""
        if self.path is None:
            return f"memory-backend-ram,id=ram,size={MEMORY_MIB}M"
        share = "on" if self.shared else "off"
        return f"memory-backend-file,id=ram,size={MEMORY_MIB}M,mem-path={self.path},share={share}"


def command(directory: Path, image: Image, memory: Memory, project: Path, accelerator: str) -> list[str]:
    """QEMU's command line for a node whose files are in ``directory`` (root.qcow2, sockets, logs)."""
    argv = [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-name",
        directory.name,
        "-no-reboot",
    ]
    argv += ["-uuid", _TEMPLATE_UUID]
    argv += ["-machine", "q35,memory-backend=ram", "-m", str(MEMORY_MIB), "-smp", str(CPUS)]
    argv += acceleration.options(accelerator)
    argv += ["-object", memory.option(), "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", definition.CMDLINE]
    argv += ["-qmp", f"unix:{directory}/qmp,server=on,wait=off"]
    argv += [
        "-chardev",
        f"socket,id=console,path={directory}/console,server=on,wait=off,logfile={directory}/console.log,logappend=on",
    ]
    argv += ["-serial", "chardev:console"]
    for port in PORTS:
        argv += ["-chardev", f"socket,id={port},path={directory}/{port},server=on,wait=off"]
        argv += ["-device", f"virtserialport,chardev={port},name={port}"]
    root = f"file={directory}/root.qcow2,format=qcow2,if=none,id=root,cache=unsafe,aio=threads,discard=unmap"
    argv += ["-drive", root, "-device", "virtio-blk-pci,drive=root"]
    argv += ["-drive", f"file={project},format=raw,if=none,id=project,readonly=on,file.locking=off"]
    argv += ["-device", "virtio-blk-pci,drive=project,serial=project"]
    for slot in range(SLOTS):
        chassis = slot + 1
        argv += [
            "-device",
            f"pcie-root-port,id=slot{slot},chassis={chassis},slot={chassis},bus=pcie.0,addr={0x10 + slot:#x}",
        ]
    return argv


class Qemu:
    """A running QEMU. Its directory keeps its logs after its end."""

    def __init__(self, spawner: Spawner, argv: list[str], directory: Path) -> None:
        for name in ("qmp", "console", *PORTS):
            (directory / name).unlink(missing_ok=True)
        self.directory = directory
        self._log = directory / "qemu.log"
        self._process: subprocess.Popen[bytes] = spawner.start(argv, self._log)
        try:
            self.monitor = Monitor(directory / "qmp", _PATIENCE_S)
        except BaseException as error:
            self.kill()
            raise MonitorError(self._log.read_text(errors="replace")[-4000:]) from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there (perhaps frozen)."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process at once: power loss for the machine inside."""
        self._process.kill()
        self._process.wait(timeout=_PATIENCE_S)
        with contextlib.suppress(AttributeError):
            self.monitor.close()

    def freeze(self) -> None:
        """Stop the process; the machine inside notices nothing but a jump of time."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def restore(self, state: Path) -> None:
        """Load a saved state into a QEMU that was started with ``-incoming defer``; it runs afterwards."""
        self._ignore_shared()
        self.monitor("migrate-incoming", uri=f"exec:cat {state}")
        eventually(self._migrated, "the restore of a saved node", _PATIENCE_S, 0.01)
        if self.monitor("query-status")["status"] != "running":
            self.monitor("cont")

    def save(self, state: Path) -> None:
        """Stop the machine and save everything but its RAM, which is in its file."""
        self.monitor("stop")
        self._ignore_shared()
        self.monitor("migrate-set-parameters", **{"max-bandwidth": 10 << 30})
        self.monitor("migrate", uri=f"exec:cat > {state}")
        eventually(self._migrated, "the saving of a node", _PATIENCE_S, 0.02)

    def _ignore_shared(self) -> None:
        self.monitor("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def _migrated(self) -> bool:
        answer: dict[str, Any] = self.monitor("query-migrate")
        if answer.get("status") == "failed" or not self.alive:
            raise MonitorError(f"{answer} {self._log.read_text(errors='replace')[-2000:]}")
        return answer.get("status") == "completed"
