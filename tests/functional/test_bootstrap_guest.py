"""The tiny guest boots in QEMU and does what it is for: console, shell, guest agent, disk, DHCP, power button."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import needs
from vds_bootstrap.guest import Guest

pytestmark = needs("qemu", "busybox")

PATIENCE_S = 60.0


class Machine:
    """A QEMU process with the guest in it, and sockets to its console, its agent and its monitor."""

    def __init__(self, guest: Guest, folder: Path) -> None:
        self._folder = folder
        disk = folder / "disk"
        disk.write_bytes(b"hello from the host".ljust(1 << 20))
        argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"]
        argv += ["-accel", "tcg", "-m", "128", "-no-reboot", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd)]
        argv += ["-append", guest.cmdline_for("probe"), *self._socket("serial"), "-serial", "chardev:serial"]
        argv += ["-qmp", f"unix:{folder}/monitor,server=on,wait=off", "-device", "virtio-serial-pci"]
        argv += [*self._socket("agent"), "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        argv += ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="]
        argv += ["-drive", f"file={disk},format=raw,if=virtio"]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.serial = self._connect("serial")
        self.printed = b""

    def _socket(self, name: str) -> list[str]:
        return ["-chardev", f"socket,id={name},path={self._folder}/{name},server=on,wait=off"]

    def _connect(self, name: str) -> socket.socket:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._folder / name))
            except OSError:
                connection.close()
                assert time.monotonic() < deadline, f"no socket {name}"
                time.sleep(0.01)
            else:
                connection.settimeout(PATIENCE_S)
                return connection

    def wait_for(self, words: bytes) -> None:
        """Read the console until it has printed these words; what was printed up to them is taken away."""
        while words not in self.printed:
            data = self.serial.recv(4096)
            assert data, f"the console ended before {words!r}: {self.printed!r}"
            self.printed += data
        self.printed = self.printed.partition(words)[2]

    def type(self, command: str) -> None:
        self.serial.sendall(command.encode() + b"\n")

    def ask_agent(self, command: str) -> object:
        with self._connect("agent") as agent:
            agent.sendall(json.dumps({"execute": command}).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += agent.recv(65536)
        return json.loads(answer)["return"]

    def tell_agent(self, command: str) -> None:
        with self._connect("agent") as agent:
            agent.sendall(json.dumps({"execute": command}).encode() + b"\n")

    def press_power_button(self) -> None:
        with self._connect("monitor") as monitor:
            for command in ("qmp_capabilities", "system_powerdown"):
                monitor.recv(65536)
                monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
            monitor.recv(65536)


@pytest.fixture
def machine(tiny_guest: Guest, tmp_path: Path) -> Iterator[Machine]:
    started = Machine(tiny_guest, tmp_path)
    try:
        started.wait_for(f"{tiny_guest.marker} probe".encode())
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def test_shell_sees_disk_and_network(machine: Machine) -> None:
    machine.wait_for(b"probe:/root# ")
    machine.type("head -c 19 /dev/vda; echo; until ip -4 addr show dev eth0 | grep inet; do sleep 0.1; done")
    machine.wait_for(b"\nhello from the host")
    machine.wait_for(b"inet 10.0.2.15/24")


def test_agent_answers_and_shuts_down(machine: Machine) -> None:
    assert machine.ask_agent("guest-ping") == {}
    name = machine.ask_agent("guest-get-host-name")
    assert name == {"host-name": "probe"}
    machine.tell_agent("guest-shutdown")
    assert machine.process.wait(PATIENCE_S) == 0


def test_power_button_is_obeyed(machine: Machine) -> None:
    machine.wait_for(b"probe:/root# ")
    machine.press_power_button()
    machine.wait_for(b"The system is going down (poweroff)")
    assert machine.process.wait(PATIENCE_S) == 0
