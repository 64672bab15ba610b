"""The lab's wires: Ethernet switches in this process, one thread for all, with a fault knob on every port.

    QEMU ── unix datagrams ── Port ┐
    QEMU ── unix datagrams ── Port ┼ Network (learns addresses like any switch)
    tap in a network namespace ─ Port ┘

A port's ``Line`` says what happens to frames on that cable, in each direction: lost, late, slow. Nothing of it exists
outside this process except sockets in the lab's directory and taps that a caller asks for.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_FRAME: Final = 1 << 16
_BURST: Final = 64  # frames taken from one port before the others have their turn
_QUEUE: Final = 2000  # frames that wait for a receiver that does not read; more are lost, as in a switch
_BUFFER_S: Final = 0.5  # how long a slow line may be behind before it loses frames
_TUNSETIFF: Final = 0x400454CA
_IFF_TAP_NO_PI: Final = 0x1002
_CLONE_NEWNET: Final = 0x40000000


@dataclass
class Line:
    """A cable's condition. Changed by anybody at any time; the next frame meets it."""

    delay_s: float = 0.0  # each way
    loss: float = 0.0  # share of frames lost, each way
    bytes_per_s: float | None = None  # each way

    @property
    def perfect(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.delay_s and not self.loss and self.bytes_per_s is None


class Port:
    """One socket of a switch and the cable in it."""

    def __init__(self, network: Network, name: str, fd: int) -> None:
        self.network = network
        self.name = name
        self.fd = fd
        self.line = Line()
        self.frames_in = 0  # from the machine
        self.frames_out = 0  # to the machine
        self.waiting: collections.deque[bytes] = collections.deque(maxlen=_QUEUE)
        self._free = {"in": 0.0, "out": 0.0}

    def due(self, direction: str, size: int, now: float) -> float | None:
        """When a frame that enters the cable now comes out; None when it is lost."""
        line = self.line
        if line.perfect:
            return now
        if line.loss and random.random() < line.loss:
            return None
        out = now
        if line.bytes_per_s is not None:
            out = max(now, self._free[direction])
            if out - now > _BUFFER_S:
                return None
            out += size / line.bytes_per_s
            self._free[direction] = out
        return out + line.delay_s

    def receive(self) -> bytes:
        """The next frame from the machine; BlockingIOError when there is none."""
        return os.read(self.fd, _FRAME)

    def send(self, frame: bytes) -> bool:
        """Give a frame to the machine; False when it takes none now."""
        try:
            os.write(self.fd, frame)
        except BlockingIOError:
            return False
        except OSError:
            return True  # the interface is down: lost
        self.frames_out += 1
        return True

    def close(self) -> None:
        """Pull the cable for good."""
        os.close(self.fd)


class SocketPort(Port):
    """A port to a QEMU: ``-netdev dgram`` over unix sockets. QEMU may go and come back."""

    def __init__(self, network: Network, name: str, directory: Path) -> None:
        self.here = directory / "switch"
        self.there = directory / "qemu"
        directory.mkdir()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.here))
        self._socket.setblocking(False)
        self._connected = False
        super().__init__(network, name, self._socket.fileno())

    def send(self, frame: bytes) -> bool:
        """Give a frame to QEMU; one for a QEMU that is not there is lost."""
        for _ in range(2):
            try:
                if not self._connected:
                    self._socket.connect(str(self.there))
                    self._connected = True
                self._socket.send(frame)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return True
                self._connected = False  # a QEMU that was started again has a new socket: once more
                continue
            self.frames_out += 1
            return True
        return True

    def netdev(self) -> dict[str, Any]:
        """The arguments of QEMU's netdev_add for this port."""
        self.there.unlink(missing_ok=True)
        self._connected = False
        ends = {"local": self.there, "remote": self.here}
        return {"type": "dgram"} | {end: {"type": "unix", "path": str(path)} for end, path in ends.items()}

    def close(self) -> None:
        """Pull the cable for good."""
        self._socket.close()
        for path in (self.here, self.there):
            path.unlink(missing_ok=True)
        self.here.parent.rmdir()


class OutsidePort:
    """No switch: QEMU's own small network that leads to this machine (10.0.2.2 is its 127.0.0.1) and beyond."""

    def __init__(self) -> None:
        self.line = Line()

    @staticmethod
    def netdev() -> dict[str, Any]:
        """The arguments of QEMU's netdev_add."""
        return {"type": "user"}


class Network:
    """One switch: an Ethernet segment. ``index`` (from 0) is unique in its fabric."""

    def __init__(self, fabric: Fabric, name: str, index: int) -> None:
        self.fabric = fabric
        self.name = name
        self.index = index
        self.ports: list[Port] = []
        self._where: dict[bytes, Port] = {}

    def plug(self, name: str) -> SocketPort:
        """A free port for a QEMU."""
        directory = self.fabric.directory / f"{self.index}.{len(self.ports)}"
        port = SocketPort(self, name, directory)
        self._add(port)
        return port

    def plug_tap(self, name: str, namespace_pid: int | None = None) -> Port:
        """A port to a new tap device ``name``, in the network namespace of a process (None: this one's)."""
        port = Port(self, name, _open_tap(name, namespace_pid))
        self._add(port)
        return port

    def _add(self, port: Port) -> None:
        self.ports.append(port)
        self.fabric.watch(port)

    def forget(self, port: Port) -> None:
        """The port's cable was pulled: what was reached through it may now be elsewhere."""
        self._where = {address: at for address, at in self._where.items() if at is not port}

    def targets(self, source: Port, frame: bytes) -> list[Port]:
        """The ports that a frame goes to."""
        self._where[frame[6:12]] = source
        known = None if frame[0] & 1 else self._where.get(frame[:6])
        if known is not None:
            return [] if known is source else [known]
        return [port for port in self.ports if port is not source]


class Fabric:
    """All switches of a lab and the thread that moves their frames."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.networks: dict[str, Network] = {}
        self._selector = selectors.DefaultSelector()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stopped = False
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._todo: collections.deque[Callable[[], object]] = collections.deque()
        self._thread = threading.Thread(target=self._run, name="lab-fabric", daemon=True)
        self._thread.start()

    def network(self, name: str) -> Network:
        """The network of that name, made at the first call."""
        if name not in self.networks:
            self.networks[name] = Network(self, name, len(self.networks))
        return self.networks[name]

    def watch(self, port: Port) -> None:
        """Begin to take frames from a port."""
        self._do(lambda: self._selector.register(port.fd, selectors.EVENT_READ, port))

    def clear(self) -> None:
        """Take all networks away; who is still plugged in is alone."""
        done = threading.Event()
        self._do(self._drop)
        self._do(done.set)
        if not done.wait(30):
            raise RuntimeError("the lab's switches do not answer")

    def close(self) -> None:
        """Stop the thread and close every port."""
        self.clear()
        self._stopped = True
        os.write(self._wake_out, b"w")
        self._thread.join(timeout=30)
        self._selector.close()
        for fd in (self._wake_in, self._wake_out):
            os.close(fd)

    def _do(self, what: Callable[[], object]) -> None:
        self._todo.append(what)
        os.write(self._wake_out, b"w")

    # -- in the thread

    def _run(self) -> None:
        while not self._stopped:
            timeout_s = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
            for key, events in self._selector.select(timeout_s):
                if self._selector.get_map().get(key.fd) is not key:
                    continue  # closed since
                if key.data is None:
                    self._catch_up()
                    continue
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if events & selectors.EVENT_READ:
                    self._take(key.data)
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()

    def _catch_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_in, 4096)
        while self._todo:
            self._todo.popleft()()

    def _drop(self) -> None:
        self._later.clear()
        for network in self.networks.values():
            for port in network.ports:
                self._selector.unregister(port.fd)
                port.close()
        self.networks.clear()

    def _take(self, port: Port) -> None:
        for _ in range(_BURST):
            try:
                frame = port.receive()
            except OSError:
                return
            if len(frame) >= 14:
                port.frames_in += 1
                self._carry(port, "in", frame, lambda frame=frame: self._switch(port, frame))

    def _switch(self, source: Port, frame: bytes) -> None:
        for target in source.network.targets(source, frame):
            self._carry(target, "out", frame, lambda target=target: self._give(target, frame))

    def _carry(self, port: Port, direction: str, frame: bytes, arrive: Callable[[], None]) -> None:
        now = time.monotonic()
        due = port.due(direction, len(frame), now)
        if due is None:
            return
        if due <= now:
            arrive()
            return
        self._count += 1
        heapq.heappush(self._later, (due, self._count, arrive))

    def _give(self, port: Port, frame: bytes) -> None:
        if port.waiting:
            port.waiting.append(frame)
        elif not port.send(frame):
            port.waiting.append(frame)
            self._selector.modify(port.fd, selectors.EVENT_READ | selectors.EVENT_WRITE, port)

    def _flush(self, port: Port) -> None:
        while port.waiting:
            if not port.send(port.waiting[0]):
                return
            port.waiting.popleft()
        self._selector.modify(port.fd, selectors.EVENT_READ, port)


def _open_tap(name: str, namespace_pid: int | None) -> int:
    """A tap device's descriptor. A namespace is entered by a thread of its own, which ends."""
    result: list[int | OSError] = []

    def open_it() -> None:
        try:
            if namespace_pid is not None:
                _enter_network(namespace_pid)
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
            result.append(fd)
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def _enter_network(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)
