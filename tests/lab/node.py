"""A full node: a Debian machine under QEMU that is cloned from the template in half a second.

    node.run(["lvs"]).text          node.start([...]) -> Running          node.call(function, *args)
    node.push(path, data)           node.pull(path)                       node.power_off(), power_on(), freeze() ...

All of it may be used from several threads. Switched off and on it boots from its own disk, with its NICs and disks.
"""

from __future__ import annotations

import base64
import inspect
import json
import os
import textwrap
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import inside
from .channel import Answer, Channel, ChannelClosed, Running
from .fabric import OutsidePort, SocketPort
from .project import WHERE
from .qemu import SLOTS, Memory, Qemu, command
from .spawning import Spawner
from .template import Template, overlay

_CLONE_S: Final = 60.0
_BOOT_S: Final = 120.0
_PLUG_S: Final = 60.0


@dataclass(frozen=True)
class Disk:
    """A raw disk in a file. ``journal``: every write and flush of its node is logged there (powercut.py)."""

    name: str
    path: Path
    size: int
    journal: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Nic:
    """A network card. ``address`` with prefix length, or None."""

    slot: int
    port: SocketPort | OutsidePort
    name: str
    mac: str
    address: str | None

    @property
    def ip(self) -> str:
        """The address without its prefix length."""
        return (self.address or "").partition("/")[0]

    @property
    def device(self) -> str:
        """QEMU's name of the card."""
        return f"nic{self.slot}"


@dataclass
class Device:
    """A disk in a node; ``path`` is what it is called there (/dev/vdc)."""

    slot: int
    disk: Disk
    path: str = ""


@dataclass
class Parts:
    """What is plugged into a node."""

    nics: list[Nic] = field(default_factory=list)
    disks: list[Device] = field(default_factory=list)


class Node:
    """One node; made by Lab. ``name`` is its host name."""

    def __init__(self, name: str, directory: Path, template: Template, project: Path, spawner: Spawner) -> None:
        self.name = name
        self.directory = directory
        self.parts = Parts()
        self.uuid = str(uuid.uuid4())
        self._template = template
        self._project = project
        self._spawner = spawner
        self._power = threading.RLock()
        self._qemu: Qemu | None = None
        self._channel: Channel | None = None
        directory.mkdir()

    # -- its life

    def clone(self) -> None:
        """Start it from the template; ``join`` makes it usable."""
        overlay(self.directory / "root.qcow2", self._template.root, "qcow2")
        self._launch(Memory(self._template.ram), "-incoming", "defer")
        self.qemu.restore(self._template.state)

    def join(self, timeout_s: float = _CLONE_S) -> None:
        """Wait for its agent and give it an identity of its own and the project's tree."""
        self._channel = Channel(self.directory / "test", lambda: self.is_on, timeout_s)
        self._channel.greet(timeout_s)
        entropy = base64.b64encode(os.urandom(64)).decode()
        now = time.clock_gettime(time.CLOCK_REALTIME)
        self.call(inside.identify, self.name, now, entropy, self.uuid, timeout_s=timeout_s)
        self.call(inside.mount_project, "project", WHERE, timeout_s=timeout_s)
        self.settle(self.parts.nics, self.parts.disks)

    @property
    def is_on(self) -> bool:
        """Whether it has power. A machine that resets itself (watchdog, panic) goes off."""
        return self._qemu is not None and self._qemu.alive

    def power_off(self) -> None:
        """Cut its power. Nothing is flushed; idempotent."""
        with self._power:
            qemu, channel = self._qemu, self._channel
            self._qemu = self._channel = None
            if qemu:
                qemu.kill()
            if channel:
                channel.close()

    def power_on(self) -> None:
        """Switch it on and wait until it answers (it boots: seconds); idempotent.

        Raises:
            TooLate: it did not come up.
        """
        with self._power:
            if self.is_on:
                return
            self.power_off()
            self._launch(Memory(), "-S")
            for nic in self.parts.nics:
                self._plug_nic(nic)
            for device in self.parts.disks:
                self._plug_disk(device)
            self.qemu.monitor("cont")
            self.join(_BOOT_S)

    def reset(self) -> None:
        """Power off and on."""
        with self._power:
            self.power_off()
            self.power_on()

    def freeze(self) -> None:
        """Stop its QEMU (SIGSTOP): nothing in it runs, its network is silent."""
        self.qemu.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self.qemu.thaw()

    @property
    def qemu(self) -> Qemu:
        """Its QEMU.

        Raises:
            ChannelClosed: it is off.
        """
        if self._qemu is None:
            raise ChannelClosed(f"{self.name} is off")
        return self._qemu

    def _launch(self, memory: Memory, *more: str) -> None:
        argv = command(self.directory, self._template.image, memory, self._project, self._template.accelerator)
        self._qemu = Qemu(self._spawner, [*argv, *more], self.directory)

    # -- commands

    @property
    def _agent(self) -> Channel:
        if self._channel is None:
            raise ChannelClosed(f"{self.name} is off")
        return self._channel

    def start(
        self,
        argv: Sequence[str] | str,
        *,
        timeout_s: float = 600.0,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        cwd: str = "/",
    ) -> Running:
        """Start a command and come back at once. A string is a shell's script."""
        words = ["/bin/sh", "-c", argv] if isinstance(argv, str) else list(argv)
        request = {"op": "run", "argv": words, "env": env, "cwd": cwd}
        return self._agent.request(request, stdin, what=f"{self.name}: {argv}", timeout_s=timeout_s)

    def run(
        self,
        argv: Sequence[str] | str,
        *,
        timeout_s: float = 60.0,
        check: bool = True,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
    ) -> Answer:
        """Run a command to its end. A string is a shell's script.

        Raises:
            CommandFailed: it failed (with ``check``) or did not end in ``timeout_s``; its process group is killed.
            ChannelClosed: the node is off or went away.
        """
        return self.start(argv, timeout_s=timeout_s, stdin=stdin, env=env).wait(check=check)

    def call(self, function: Callable[..., Any], *args: Any, timeout_s: float = 60.0) -> Any:
        """Run a function of this process in the node: its source is shipped, so it must stand alone.

        Arguments and result are what JSON can carry. An exception there is CommandFailed here, with its traceback.
        """
        return self.result(self.start_call(function, *args, timeout_s=timeout_s))

    def start_call(self, function: Callable[..., Any], *args: Any, timeout_s: float = 600.0) -> Running:
        """As ``call``, and come back at once; ``result`` takes the value."""
        source = "from __future__ import annotations\n" + textwrap.dedent(inspect.getsource(function))
        request = {"op": "call", "source": source, "name": function.__name__, "args": args}
        return self._agent.request(request, what=f"{self.name}: {function.__name__}", timeout_s=timeout_s)

    @staticmethod
    def result(running: Running) -> Any:
        """What a function that was started by ``start_call`` returned."""
        return json.loads(running.wait().value)

    def push(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Write a file in the node, with the directories above it."""
        script = 'mkdir -p "$(dirname "$0")" && cat > "$0" && chmod "$1" "$0"'
        content = data.encode() if isinstance(data, str) else data
        self.run(["/bin/sh", "-c", script, path, f"{mode:o}"], stdin=content)

    def pull(self, path: str) -> bytes:
        """A file's content."""
        return self.run(["cat", path]).stdout

    # -- devices

    def plug(
        self,
        nics: Sequence[tuple[SocketPort | OutsidePort, str, str | None]] = (),
        disks: Sequence[Disk] = (),
    ) -> None:
        """Plug in network cards (port, interface name, address) and disks, and wait until they can be used."""
        new = Parts()
        for port, name, address in nics:
            slot = self._free_slot()
            nic = Nic(slot=slot, port=port, name=name, mac=_mac(self.uuid, slot), address=address)
            self.parts.nics.append(nic)
            new.nics.append(nic)
            self._plug_nic(nic)
        for disk in disks:
            device = Device(self._free_slot(), disk)
            self.parts.disks.append(device)
            new.disks.append(device)
            self._plug_disk(device)
        self.settle(new.nics, new.disks)

    def nic(self, name: str) -> Nic:
        """The card with that interface name."""
        return next(nic for nic in self.parts.nics if nic.name == name)

    def disk(self, name: str) -> str:
        """The device (/dev/vdc) of the disk of that name."""
        return next(device.path for device in self.parts.disks if device.disk.name == name)

    def settle(self, nics: Sequence[Nic], devices: Sequence[Device]) -> None:
        """Wait until plugged devices can be used."""
        if not nics and not devices:
            return
        cards = [{"mac": nic.mac, "name": nic.name, "address": nic.address} for nic in nics]
        serials = [device.disk.name for device in devices]
        paths = self.call(inside.settle, cards, serials, _PLUG_S, timeout_s=_PLUG_S + 10)
        for device in devices:
            device.path = paths[device.disk.name]

    def _free_slot(self) -> int:
        used = {part.slot for part in (*self.parts.nics, *self.parts.disks)}
        return next(slot for slot in range(SLOTS) if slot not in used)

    def _plug_nic(self, nic: Nic) -> None:
        monitor = self.qemu.monitor
        monitor("netdev_add", id=f"net{nic.slot}", **nic.port.netdev())
        card = {"driver": "virtio-net-pci", "id": nic.device, "netdev": f"net{nic.slot}", "mac": nic.mac}
        monitor("device_add", **card, bus=f"slot{nic.slot}")

    def _plug_disk(self, device: Device) -> None:
        """Shared by default: no cache of QEMU's, no locks."""
        disk, name = device.disk, f"disk{device.slot}"
        cache = {"direct": True, "no-flush": False}
        file = {"driver": "file", "filename": str(disk.path), "locking": "off", "cache": cache, "aio": "threads"}
        options: dict[str, Any] = {"driver": "raw", "file": {**file, "discard": "unmap"}}
        if disk.journal:
            log = {"driver": "raw", "file": {**file, "filename": str(disk.journal)}}
            options = {"driver": "blklogwrites", "file": options, "log": log}
        self.qemu.monitor("blockdev-add", **{"node-name": name, "cache": cache, **options})
        drive = {"driver": "virtio-blk-pci", "id": f"dev{device.slot}", "drive": name, "serial": disk.name}
        self.qemu.monitor("device_add", **drive, **{"share-rw": True}, bus=f"slot{device.slot}")


def _mac(seed: str, slot: int) -> str:
    number = zlib.crc32(seed.encode())
    return f"52:54:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}:{slot:02x}"
