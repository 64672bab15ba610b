"""Faults, each one call with an undo: the undo comes at the end of a ``with``, whatever happened in it.

    with faults.cut(node, "san0"): ...           the cable is out (no carrier)
    with faults.line(node, "san0", loss=1): ...  the link is up and nothing passes; or slow, or late
    with faults.frozen(node): ...                nothing of the node runs
    with faults.without_power(node): ...         killed as by power loss, booted afterwards
    with disk.errors(): ...                      a FaultyDisk's device fails, stalls, is slow, forgets writes

An NFS server that goes away is ``NfsServer.away``, an iSCSI path that fails ``Target.portal_away``, a disk after a
power cut is in powercut.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from .channel import ChannelClosed
from .fabric import Line, SocketPort
from .node import Node

SECTOR: Final = 512


# -- links


@contextmanager
def cut(node: Node, nic: str) -> Iterator[None]:
    """Pull a NIC's cable: both ends of a link see no carrier, the switch forgets who was there."""
    card = node.nic(nic)
    node.qemu.monitor("set_link", name=card.device, up=False)
    if isinstance(card.port, SocketPort):
        card.port.network.forget(card.port)
    try:
        yield
    finally:
        with suppress(ChannelClosed):  # it was switched off meanwhile: it comes back with its link up
            node.qemu.monitor("set_link", name=card.device, up=True)


@contextmanager
def line(
    node: Node, nic: str, *, delay_s: float = 0.0, loss: float = 0.0, bytes_per_s: float | None = None
) -> Iterator[None]:
    """Make a NIC's link bad, in both directions: frames are late, are lost (share 0..1), are slow."""
    port = node.nic(nic).port
    before, port.line = port.line, Line(delay_s, loss, bytes_per_s)
    try:
        yield
    finally:
        port.line = before


# -- processes and nodes


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process of this machine (SIGSTOP) and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def stopped_inside(node: Node, name: str) -> Iterator[None]:
    """Stop all processes of that name in a node.

    Raises:
        CommandFailed: there is none.
    """
    node.run(["pkill", "-STOP", "-x", name])
    try:
        yield
    finally:
        with suppress(ChannelClosed):
            node.run(["pkill", "-CONT", "-x", name], check=False)


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    """Stop a node's QEMU (SIGSTOP): nothing in it runs, its own clocks find out afterwards."""
    with stopped(node.qemu.pid):
        yield


@contextmanager
def paused(node: Node) -> Iterator[None]:
    """Stop a node's processors: its clocks stand still, too."""
    node.qemu.monitor("stop")
    try:
        yield
    finally:
        with suppress(ChannelClosed):
            node.qemu.monitor("cont")


@contextmanager
def without_power(node: Node) -> Iterator[None]:
    """Kill a node as by power loss; boot it at the end."""
    node.power_off()
    try:
        yield
    finally:
        node.power_on()


@contextmanager
def clock_moved(node: Node, seconds: float) -> Iterator[None]:
    """Move a node's wall clock; at the end it is right again."""
    _set_clock(node, seconds)
    try:
        yield
    finally:
        with suppress(ChannelClosed):
            _set_clock(node, 0.0)


def _set_clock(node: Node, ahead_s: float) -> None:
    node.run(["date", "-u", "-s", f"@{time.clock_gettime(time.CLOCK_REALTIME) + ahead_s:.3f}"])


# -- disks


@contextmanager
def full(node: Node, directory: str) -> Iterator[None]:
    """Fill the file system that a directory is in, to the last block."""
    filler = f"{directory}/.lab-filler"
    # fallocate first (quick), then what it could not have; dd ends with "no space left".
    room = f"$(($(stat -f -c '%a * %S' {directory})))"
    node.run(f"fallocate -l {room} {filler}; dd if=/dev/zero of={filler}.rest bs=4k; sync -f {directory}", check=False)
    try:
        yield
    finally:
        with suppress(ChannelClosed):
            node.run(["rm", "-f", filler, f"{filler}.rest"])


class FaultyDisk:
    """A device-mapper layer over a device of a node, whose behaviour can be changed while it is in use."""

    def __init__(self, node: Node, device: str, name: str) -> None:
        """``name``: use /dev/mapper/NAME (``path``) instead of the device."""
        self.node = node
        self.name = name
        self.path = f"/dev/mapper/{name}"
        self._device = device
        self._sectors = int(node.run(["blockdev", "--getsz", device]).text)
        node.run("modprobe -a dm_mod dm_delay dm_flakey", timeout_s=120)
        node.run(["dmsetup", "create", name, "--table", self._good()])

    @contextmanager
    def errors(self, first: int = 0, count: int | None = None) -> Iterator[None]:
        """Reads and writes of some sectors (of 512 bytes; all when nothing is said) fail."""
        end = self._sectors if count is None else first + count
        with self._table(self._pieces(first, end, "error")):
            yield

    @contextmanager
    def slow(self, delay_ms: int) -> Iterator[None]:
        """Every read and write takes that much longer."""
        with self._table(f"0 {self._sectors} delay {self._device} 0 {delay_ms}"):
            yield

    @contextmanager
    def forgetful(self) -> Iterator[None]:
        """Writes succeed and go nowhere (dm-flakey)."""
        with self._table(f"0 {self._sectors} flakey {self._device} 0 0 86400 1 drop_writes"):
            yield

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Reads and writes are not answered: whoever waits cannot be killed."""
        self.node.run(["dmsetup", "suspend", "--noflush", "--nolockfs", self.name])
        try:
            yield
        finally:
            with suppress(ChannelClosed):
                self.node.run(["dmsetup", "resume", "--noudevsync", self.name])

    @contextmanager
    def _table(self, table: str) -> Iterator[None]:
        self._change(table)
        try:
            yield
        finally:
            with suppress(ChannelClosed):
                self._change(self._good())

    def _change(self, table: str) -> None:
        name = self.name
        # Not to wait for udev, which looks at the device anew and meets the fault.
        resume = f"dmsetup suspend --noflush --nolockfs {name} && dmsetup resume --noudevsync {name}"
        self.node.run(f"dmsetup reload {name} --table '{table}' && {resume}")

    def _good(self) -> str:
        return f"0 {self._sectors} linear {self._device} 0"

    def _pieces(self, first: int, end: int, kind: str) -> str:
        spans = [(0, first, "linear"), (first, end, kind), (end, self._sectors, "linear")]
        lines = [
            f"{start} {stop - start} {what}" + (f" {self._device} {start}" if what == "linear" else "")
            for start, stop, what in spans
            if stop > start
        ]
        return "\n".join(lines)
