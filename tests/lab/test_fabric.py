"""The switches: frames go where they belong, a machine that does not read holds up nobody, bad lines are bad."""

from __future__ import annotations

import socket
import time

import pytest

from .deadlines import eventually
from .fabric import Fabric, Line

ALL = b"\xff" * 6


class Machine:
    """Plays a QEMU."""

    def __init__(self, network, number: int) -> None:
        self.mac = bytes([2, 0, 0, 0, 0, number])
        self.port = network.plug(f"m{number}")
        netdev = self.port.netdev()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(netdev["local"]["path"])
        self.socket.connect(netdev["remote"]["path"])
        self.socket.settimeout(10)

    def send(self, to: bytes, text: bytes) -> None:
        self.socket.send(to + self.mac + b"\x88\xb5" + text)

    def got(self) -> bytes:
        return self.socket.recv(2000)[14:]

    def has_nothing(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(2000)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(10)
        return False


@pytest.fixture
def machines(tmp_path):
    fabric = Fabric(tmp_path / "net")
    made = [Machine(fabric.network("lan"), number) for number in range(3)]
    yield made
    fabric.close()
    for machine in made:
        machine.socket.close()


def test_frames_go_to_all_until_the_address_is_known(machines) -> None:
    one, two, three = machines
    one.send(two.mac, b"first")
    assert (two.got(), three.got()) == (b"first", b"first")
    two.send(one.mac, b"answer")
    assert one.got() == b"answer"
    one.send(two.mac, b"second")
    assert two.got() == b"second"
    one.send(ALL, b"to all")
    assert (two.got(), three.got()) == (b"to all", b"to all")  # and not "second"
    assert one.has_nothing()


def test_pulled_cable_is_forgotten(machines) -> None:
    one, two, three = machines
    two.send(ALL, b"here")
    assert one.got() == three.got() == b"here"
    two.port.network.forget(two.port)
    one.send(two.mac, b"where are you")
    assert three.got() == b"where are you"


def test_machine_that_does_not_read_holds_up_nobody(machines) -> None:
    one, two, three = machines
    for number in range(300):  # many more than fit in its socket
        one.send(ALL, b"%d" % number)
        assert two.got() == b"%d" % number
    assert [three.got() for _ in range(300)] == [b"%d" % number for number in range(300)]


def test_machine_that_is_started_again_is_reached(machines) -> None:
    one, two, _ = machines
    one.send(two.mac, b"before")
    assert two.got() == b"before"
    two.socket.close()
    one.send(two.mac, b"lost")
    eventually(lambda: one.port.frames_in == 2, "the frame to nobody")
    netdev = two.port.netdev()
    two.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    two.socket.bind(netdev["local"]["path"])
    two.socket.settimeout(10)
    one.send(two.mac, b"after")
    assert two.got() == b"after"


def test_lines_lose_delay_and_throttle(machines) -> None:
    one, two, three = machines
    two.port.line = Line(loss=1.0)
    one.send(ALL, b"lost")
    assert three.got() == b"lost"
    assert two.has_nothing()
    two.port.line = Line(delay_s=0.2)
    start = time.monotonic()
    one.send(ALL, b"late")
    assert two.got() == b"late"
    assert time.monotonic() - start >= 0.2
    two.port.line = Line(bytes_per_s=5000)
    start = time.monotonic()
    for _ in range(2):
        one.send(ALL, b"x" * 986)
    assert [len(two.got()) for _ in range(2)] == [986, 986]
    assert time.monotonic() - start >= 0.4


def test_networks_are_apart(tmp_path) -> None:
    fabric = Fabric(tmp_path / "net")
    one, two = Machine(fabric.network("a"), 1), Machine(fabric.network("b"), 2)
    other = Machine(fabric.network("a"), 3)
    one.send(ALL, b"hello")
    assert other.got() == b"hello"
    assert two.has_nothing()
    fabric.close()
    for machine in (one, two, other):
        machine.socket.close()
