"""The light hosts' network: a network namespace with bridges in it, so that nothing appears in the machine's own.

    host1 eth0 ── veth ── host1.0 ┐
    host2 eth0 ── veth ── host2.0 ┼ bridge net0, 198.51.100.254 (the manager's seat)
             full nodes ── tap ───┘ (join)

Sockets of the test process can be made in it, and in any host (``socket_in``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from .deadlines import eventually
from .fabric import Network
from .spawning import Spawner

T = TypeVar("T")

# RFC 5737's, for documentation: nobody's.
PREFIXES: Final = ("198.51.100", "203.0.113", "192.0.2")
SEAT: Final = 254
_CLONE_NEWNET: Final = 0x40000000


def address(number: int, network: int = 0) -> str:
    """The address of a host in a network; both are counted, hosts from 1."""
    return f"{PREFIXES[network]}.{number}"


def _hardware(number: int, network: int) -> str:
    return f"02:{network:02x}:00:00:00:{number:02x}"


class Lan:
    """The networks of one lab; ends with the process that made it."""

    def __init__(self, spawner: Spawner, log: Path, networks: int = 1) -> None:
        argv = ["unshare", "--net", "sleep", "infinity"]
        self._holder: subprocess.Popen[bytes] = spawner.start(argv, log)
        self.pid = self._holder.pid
        mine = Path("/proc/self/ns/net").readlink()
        # setpriv becomes unshare, unshare becomes sleep: then it has moved.
        eventually(lambda: self._namespace() not in {None, mine}, "the lab's network", pause_s=0.005)
        lines = ["link set lo up"]
        for index in range(networks):
            # Of its own accord a bridge changes its address whenever a card comes or goes.
            lines.append(f"link add net{index} address {_hardware(SEAT, index)} type bridge")
            lines.append(f"address add {address(SEAT, index)}/24 dev net{index}")
            lines.append(f"link set net{index} up")
        self.ip(*lines)

    def _namespace(self) -> Path | None:
        if self._holder.poll() is not None:
            raise RuntimeError("the lab's network ended at once")
        try:
            found = Path(f"/proc/{self.pid}/ns/net").readlink()
            return found if b"sleep" in Path(f"/proc/{self.pid}/cmdline").read_bytes() else None
        except OSError:
            return None

    def ip(self, *lines: str) -> None:
        """Run ip(8) commands in the lab's network."""
        ip(self.pid, *lines)

    def run(self, *argv: str) -> str:
        """Run a command in the lab's network; its output."""
        return in_network(self.pid, *argv)

    def plug(self, host_pid: int, cable: str, device: str, number: int, network: int = 0) -> None:
        """Give a host a network card ``device`` with its address; ``cable`` is the end at the bridge."""
        # A card keeps its hardware address over a host's power cycle: its peers remember it.
        card = _hardware(number, network)
        self.ip(
            f"link add {cable} type veth peer name {device} address {card} netns {host_pid}",
            f"link set {cable} master net{network} up",
        )
        ip(host_pid, f"address add {address(number, network)}/24 dev {device}", f"link set {device} up")

    def unplug(self, cable: str) -> None:
        """Take a host's card away; one that is gone already is fine."""
        # The kernel takes a dead host's network away some time later, and with it the cards in it.
        with contextlib.suppress(RuntimeError):
            self.ip(f"link delete {cable}")

    def join(self, network: Network, index: int = 0) -> None:
        """Make one network of this one and of one of the full nodes'."""
        tap = f"nodes{index}"
        network.plug_tap(tap, self.pid)
        self.ip(f"link set {tap} master net{index} up")

    def close(self) -> None:
        """Take it away; cables of hosts that still run go with it."""
        self._holder.kill()
        self._holder.wait(timeout=60)


def ip(pid: int, *lines: str) -> None:
    """Run ip(8) commands in the network of a process."""
    in_network(pid, "ip", "-batch", "-", stdin="\n".join(lines))


def in_network(pid: int, *argv: str, stdin: str = "") -> str:
    """Run a command in the network of a process; its output.

    Raises:
        RuntimeError: it failed.
    """
    words = ["nsenter", "-t", str(pid), "-n", "--", *argv]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv} {stdin}: {done.stdout}{done.stderr}")
    return done.stdout


def socket_in(pid: int, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket of this process in the network of another."""
    return _in_thread(lambda: _socket(pid, family, kind))


def _socket(pid: int, family: int, kind: int) -> socket.socket:
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)
    return socket.socket(family, kind)


def _in_thread(make: Callable[[], T]) -> T:
    """Call in a thread of its own, which may change its network: it ends."""
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(make())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
