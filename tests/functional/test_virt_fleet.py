"""VMs on real libvirt and QEMU: their life, their console, their guests."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import vnc
from lab.fleets import Lab, reaches
from lab.light import LightHost, eventually
from needs import needs
from vds_bootstrap.guest import Guest
from vdsm.base.errors import NotResponding, WrongState
from vdsm.base.secrets import Secret
from vdsm.virt.fleet import Fleet
from vdsm.virt.hypervisor import LibvirtHypervisor
from vdsm.virt.lifecycle import Status
from vdsm.virt.requests import ChangeMedium, Cont, Pause, Reset, SetTicket, Shutdown
from vdsm.virt.spec import BootSpec, DiskSpec
from vdsm.virt.view import ExitCode, ExitReason, VmView

pytestmark = needs("root", "qemu", "busybox", "program:libvirtd")


@pytest.fixture(scope="module")
def light() -> Iterator[LightHost]:
    with tempfile.TemporaryDirectory(prefix="fleet") as directory, LightHost(Path(directory) / "host") as host:
        yield host


@pytest.fixture
def lab(light: LightHost) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="fleet") as directory:  # short: it holds sockets
        lab = Lab(Path(directory))
        yield lab
        lab.close()


@pytest.fixture
def fleet(light: LightHost, lab: Lab) -> Iterator[Fleet]:
    fleet = lab.fleet(LibvirtHypervisor(light.uri))
    yield fleet
    for view in fleet.views():
        fleet.destroy(view.vm_id)


def running(lab: Lab, fleet: Fleet, **options: object) -> str:
    prepared = lab.vm(**options)  # type: ignore[arg-type]
    fleet.create(prepared)
    reaches(fleet, prepared.vm_id, Status.UP)
    return prepared.vm_id


def guest(lab: Lab, fleet: Fleet, tiny_guest: Guest, **options: object) -> str:
    """A tiny guest whose agent has connected."""
    boot = BootSpec(kernel=str(tiny_guest.kernel), initrd=str(tiny_guest.initrd), cmdline=tiny_guest.cmdline_for("t"))
    return running(lab, fleet, boot=boot, memory_mib=128, agent_channel=True, **options)


def ended(fleet: Fleet, vm_id: str) -> tuple[int, int]:
    how = reaches(fleet, vm_id, Status.DOWN).exit
    assert how is not None
    return int(how.code), int(how.reason)


def test_life(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    vm_id = running(lab, fleet, name="life")
    assert light.virsh("list", "--name").split() == ["life"]
    assert light.virsh("list", "--all", "--persistent", "--name").split() == []
    assert fleet.request(vm_id, Pause()).status is Status.PAUSED
    assert light.virsh("domstate", "life").strip() == "paused"
    assert fleet.request(vm_id, Cont()).status is Status.UP
    assert fleet.request(vm_id, Reset()).status is Status.REBOOT_IN_PROGRESS
    reaches(fleet, vm_id, Status.UP)
    fleet.destroy(vm_id)
    assert fleet.views() == ()
    assert light.virsh("list", "--all", "--name").split() == []
    assert lab.statuses(vm_id)[:5] == ["WaitForLaunch", "Powering up", "Up", "Paused", "Up"]


def test_what_others_do_is_seen(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    vm_id = running(lab, fleet, name="others")
    light.virsh("suspend", "others")
    reaches(fleet, vm_id, Status.PAUSED)
    light.virsh("resume", "others")
    reaches(fleet, vm_id, Status.UP)
    light.virsh("destroy", "others")
    assert ended(fleet, vm_id) == (ExitCode.ERROR, ExitReason.GENERIC_ERROR)


def test_qemu_killed(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    vm_id = running(lab, fleet)
    light.kill_qemu(vm_id)
    assert ended(fleet, vm_id) == (ExitCode.ERROR, ExitReason.LOST_QEMU)


def test_qemu_told_to_end_by_the_host(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    vm_id = running(lab, fleet)
    os.kill(light.qemu_pid(vm_id), signal.SIGTERM)
    assert ended(fleet, vm_id) == (ExitCode.ERROR, ExitReason.HOST_SHUTDOWN)


def test_start_that_libvirt_refuses(lab: Lab, fleet: Fleet, light: LightHost) -> None:
    prepared = lab.vm(disks=(DiskSpec(path="/nowhere/disk.img"),))
    given_back: list[bool] = []
    fleet.create(prepared, lambda: given_back.append(True))
    assert ended(fleet, prepared.vm_id) == (ExitCode.ERROR, ExitReason.START_FAILED)
    how = fleet.get(prepared.vm_id).exit
    assert how is not None
    assert "/nowhere/disk.img" in how.message
    assert given_back == [True]
    assert light.virsh("list", "--all", "--name").split() == []
    fleet.destroy(prepared.vm_id)


def test_live_facts_and_samples(lab: Lab, fleet: Fleet, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    vm_id = running(lab, fleet, graphics="vnc", disks=(DiskSpec(path=str(disk)),))
    eventually(lambda: fleet.get(vm_id).facts.graphics[0].port, "the display's port")
    eventually(lambda: (sample := fleet.get(vm_id).sample) and sample.disks and sample.disks[0].read_ops, "reads")
    view = fleet.get(vm_id)
    assert view.sample is not None
    assert view.sample.cpu_ns > 0
    assert view.sample.memory is not None
    assert view.sample.memory.balloon_current_kib == 32 * 1024
    (sampled,) = view.sample.disks
    assert (sampled.target, sampled.capacity) == ("vda", 1 << 20)
    assert "<address type='pci'" in view.xml


def test_medium(lab: Lab, fleet: Fleet, tmp_path: Path) -> None:
    image = tmp_path / "cd.iso"
    image.write_bytes(bytes(65536))
    vm_id = running(lab, fleet, disks=(lab.cdrom(),))
    assert fleet.request(vm_id, ChangeMedium("sda", str(image))).facts.disks[0].path == str(image)
    assert fleet.request(vm_id, ChangeMedium("sda", "")).facts.disks[0].path == ""


def port_of(fleet: Fleet, vm_id: str) -> int:
    eventually(lambda: fleet.get(vm_id).facts.graphics[0].port, "the display's port")
    return fleet.get(vm_id).facts.graphics[0].port or 0


def opens(port: int, password: str) -> bool:
    client = vnc.Client(port)
    try:
        return client.enter(password)
    finally:
        client.close()


def test_ticket_opens_the_display_until_it_expires(lab: Lab, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    vm_id = running(lab, fleet, graphics="vnc")
    port = port_of(fleet, vm_id)
    assert not opens(port, "")
    assert not opens(port, "t1ckethu")
    fleet.request(vm_id, SetTicket(Secret("t1ckethu"), valid_s=4))
    assert opens(port, "t1ckethu")
    assert not opens(port, "wrong")
    time.sleep(6)  # the ticket's own time: QEMU's clock is the wall's, in whole seconds
    assert not opens(port, "t1ckethu")
    assert "t1ckethu" not in caplog.text
    assert "t1ckethu" not in fleet.get(vm_id).xml


def test_who_is_at_the_display(lab: Lab, fleet: Fleet) -> None:
    vm_id = running(lab, fleet, graphics="vnc")
    port = port_of(fleet, vm_id)
    fleet.request(vm_id, SetTicket(Secret("t1ckethu"), valid_s=60))
    client = vnc.Client(port)
    assert client.enter("t1ckethu")
    eventually(lambda: fleet.get(vm_id).client_address == "127.0.0.1", "the client's address")
    client.close()
    eventually(lambda: fleet.get(vm_id).client_address == "", "nobody")


def test_screenshot(lab: Lab, fleet: Fleet) -> None:
    vm_id = running(lab, fleet, graphics="vnc")
    picture = fleet.screenshot(vm_id)
    magic = {"image/png": b"\x89PNG", "image/x-portable-pixmap": b"P6"}
    assert picture.data.startswith(magic[picture.mime_type])
    fleet.request(vm_id, Pause())
    fleet.screenshot(vm_id)


def test_guest_says_who_it_is_and_obeys_its_agent(lab: Lab, fleet: Fleet, tiny_guest: Guest) -> None:
    vm_id = guest(lab, fleet, tiny_guest)
    assert fleet.get(vm_id).agent_connected
    eventually(lambda: fleet.get(vm_id).guest, "the guest's answer")
    info = fleet.get(vm_id).guest
    assert info is not None
    assert info.kernel
    assert [face.name for face in info.interfaces]
    assert fleet.request(vm_id, Shutdown()).status is Status.POWERING_DOWN
    assert ended(fleet, vm_id) == (ExitCode.NORMAL, ExitReason.ADMIN_SHUTDOWN)


def test_guest_shut_down_by_somebody_else(lab: Lab, fleet: Fleet, light: LightHost, tiny_guest: Guest) -> None:
    vm_id = guest(lab, fleet, tiny_guest)
    light.virsh("shutdown", fleet.get(vm_id).name, "--mode", "agent")
    assert ended(fleet, vm_id) == (ExitCode.NORMAL, ExitReason.USER_SHUTDOWN)


def test_guest_reboots_on_request(lab: Lab, fleet: Fleet, tiny_guest: Guest) -> None:
    vm_id = guest(lab, fleet, tiny_guest)
    pid_before = fleet.get(vm_id).started_s
    assert fleet.request(vm_id, Shutdown(reboot=True)).status is Status.REBOOT_IN_PROGRESS
    eventually(lambda: not fleet.get(vm_id).agent_connected, "the agent goes")
    view: VmView = reaches(fleet, vm_id, Status.UP)
    assert view.agent_connected
    assert view.started_s == pid_before


def test_guest_obeys_the_power_button(lab: Lab, fleet: Fleet, tiny_guest: Guest) -> None:
    boot = BootSpec(kernel=str(tiny_guest.kernel), initrd=str(tiny_guest.initrd), cmdline=tiny_guest.cmdline_for("t"))
    vm_id = running(lab, fleet, boot=boot, memory_mib=128)
    # Without an agent nobody says when the guest listens to its button, so press it until it does.
    deadline = time.monotonic() + 60
    while fleet.get(vm_id).status is not Status.DOWN and time.monotonic() < deadline:
        try:
            fleet.request(vm_id, Shutdown(step_s=1))
        except (WrongState, NotResponding):
            break
        time.sleep(1)
    assert ended(fleet, vm_id) == (ExitCode.NORMAL, ExitReason.ADMIN_SHUTDOWN)
