"""The Hypervisor's contract, on libvirt (a private one) and on its in-memory twin."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.fleets import Lab
from lab.light import LightHost, eventually
from needs import needs
from vdsm.base.errors import HypervisorFailed, NotFound, NotResponding, Unfinished, Unreachable, WrongState
from vdsm.base.ids import new_vm_id
from vdsm.system.libvirt.facts import (
    Connected,
    Disconnected,
    Event,
    PauseCause,
    Paused,
    Rebooted,
    Resumed,
    Returned,
    Started,
    StopCause,
    Stopped,
)
from vdsm.virt.hypervisor import Deadlines, Hypervisor, LibvirtHypervisor
from vdsm.virt.simulated import SimulatedHost, SimulatedHypervisor


class Kind:
    """One implementation with the levers that a test pulls, and the events it told."""

    def __init__(self, hypervisor: Hypervisor, host: SimulatedHost | LightHost, lab: Lab) -> None:
        self.hypervisor = hypervisor
        self.host = host
        self.lab = lab
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        hypervisor.start(self.events.put)
        self.told(Connected)

    def told(self, kind: type[Event], **facts: object) -> None:
        """Wait for an event of a kind and with these facts; others are passed over."""
        while True:
            try:
                event = self.events.get(timeout=30)
            except queue.Empty:
                raise AssertionError(f"no {kind.__name__}({facts})") from None
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in facts.items()):
                return

    def vm(self, **options: object) -> str:
        prepared = self.lab.vm(**options)  # type: ignore[arg-type]
        self.hypervisor.launch(prepared.xml, paused=False).result(timeout=60)
        return prepared.vm_id

    def freeze(self, vm_id: str) -> None:
        self.host.freeze(vm_id)

    def thaw(self, vm_id: str) -> None:
        self.host.thaw(vm_id)

    def freeze_daemon(self) -> None:
        if isinstance(self.host, LightHost):
            self.host.freeze_libvirtd()
        else:
            self.host.freeze_daemon()

    def thaw_daemon(self) -> None:
        if isinstance(self.host, LightHost):
            self.host.thaw_libvirtd()
        else:
            self.host.thaw_daemon()

    def kill_daemon(self) -> None:
        if isinstance(self.host, LightHost):
            self.host.kill_libvirtd()
        else:
            self.host.kill_daemon()

    def restart_daemon(self) -> None:
        if isinstance(self.host, LightHost):
            self.host.start_libvirtd()
        else:
            self.host.restart_daemon()

    def crash(self, vm_id: str) -> None:
        if isinstance(self.host, LightHost):
            self.host.kill_qemu(vm_id)
        else:
            self.host.end(vm_id, StopCause.FAILED)

    def run_foreign(self) -> str:
        """Start a domain that no agent marked."""
        foreign = new_vm_id()
        xml = f"""<domain type='qemu'><name>foreign</name><uuid>{foreign}</uuid><memory>32768</memory><vcpu>1</vcpu>
            <os><type machine='q35'>hvm</type></os><devices/></domain>"""
        if isinstance(self.host, LightHost):
            path = self.host.directory / "foreign.xml"
            path.write_text(xml)
            self.host.virsh("create", str(path))
        else:
            self.host.run(xml)
        return foreign


@pytest.fixture(params=["simulated", pytest.param("libvirt", marks=needs("root", "qemu", "program:libvirtd"))])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    with tempfile.TemporaryDirectory(prefix="hyp") as directory:
        lab = Lab(Path(directory) / "agent")
        if request.param == "simulated":
            host = SimulatedHost()
            twin = Kind(SimulatedHypervisor(host), host, lab)
            yield twin
            twin.hypervisor.stop()
            return
        with LightHost(Path(directory) / "host") as light:
            deadlines = Deadlines(call_s=1.5)
            real = Kind(LibvirtHypervisor(light.uri, deadlines), light, lab)
            yield real
            real.hypervisor.stop()


def test_start_pause_resume_reset_destroy(kind: Kind) -> None:
    vm_id = kind.vm(name="one")
    kind.told(Started, vm_id=vm_id)
    (domain,) = kind.hypervisor.running()
    assert (domain.vm_id, domain.name, domain.paused) == (vm_id, "one", None)
    assert kind.lab.instance in domain.xml
    kind.hypervisor.pause(vm_id)
    kind.told(Paused, vm_id=vm_id, cause=PauseCause.USER)
    assert kind.hypervisor.cheap([vm_id])[vm_id].paused is PauseCause.USER
    kind.hypervisor.resume(vm_id)
    kind.told(Resumed, vm_id=vm_id)
    assert kind.hypervisor.cheap([vm_id])[vm_id].paused is None
    kind.hypervisor.reset(vm_id)
    kind.told(Rebooted, vm_id=vm_id)
    kind.hypervisor.destroy(vm_id)
    kind.told(Stopped, vm_id=vm_id, cause=StopCause.DESTROYED)
    assert kind.hypervisor.running() == []


def test_start_paused(kind: Kind) -> None:
    prepared = kind.lab.vm()
    kind.hypervisor.launch(prepared.xml, paused=True).result(timeout=60)
    (domain,) = kind.hypervisor.running()
    assert domain.paused is PauseCause.USER


def test_start_that_fails_says_why(kind: Kind) -> None:
    prepared = kind.lab.vm(name="twice")
    kind.hypervisor.launch(prepared.xml, paused=False).result(timeout=60)
    with pytest.raises(HypervisorFailed, match="twice"):
        kind.hypervisor.launch(prepared.xml, paused=False).result(timeout=60)


def test_unknown_vm(kind: Kind) -> None:
    nobody = new_vm_id()
    for call in (
        kind.hypervisor.pause,
        kind.hypervisor.resume,
        kind.hypervisor.reset,
        kind.hypervisor.destroy,
        kind.hypervisor.xml,
        kind.hypervisor.screenshot,
    ):
        with pytest.raises(NotFound):
            call(nobody)
    assert kind.hypervisor.cheap([nobody]) == {}
    assert kind.hypervisor.monitored([nobody], cpu=True, deadline_s=5, late=lambda: None) == {}
    assert kind.hypervisor.processes([nobody]) == {}
    assert not kind.hypervisor.stopped(nobody)


def test_foreign_domain_is_not_listed_nor_destroyed(kind: Kind) -> None:
    foreign = kind.run_foreign()
    mine = kind.vm()
    assert [domain.vm_id for domain in kind.hypervisor.running()] == [mine]
    with pytest.raises(NotFound):
        kind.hypervisor.destroy(foreign)
    assert foreign in kind.hypervisor.cheap([foreign])


def test_counters(kind: Kind) -> None:
    vm_id = kind.vm(disks=(kind.lab.cdrom(),))
    seen = kind.hypervisor.monitored([vm_id], cpu=True, deadline_s=10, late=lambda: None)[vm_id]
    assert seen is not None
    assert seen.memory["current"] == 32 * 1024
    assert seen.memory["rss"] > 0
    assert [disk.name for disk in seen.disks] == ["sda"]
    process = kind.hypervisor.processes([vm_id])[vm_id]
    assert process.pid > 0
    assert process.started_s > 0
    assert not process.stopped


def test_devices_are_changed_by_a_function_of_the_live_xml(kind: Kind) -> None:
    vm_id = kind.vm(disks=(kind.lab.cdrom(),))

    def refuse(_xml: str) -> list[str]:
        raise WrongState("change", "this is a test")

    with pytest.raises(WrongState):
        kind.hypervisor.update_devices(vm_id, refuse, force=False)
    image = kind.lab.directory / "cd.iso"
    image.write_bytes(bytes(65536))
    disk = f"""<disk type='file' device='cdrom'><source file='{image}'/><target dev='sda' bus='sata'/><readonly/>
        <driver name='qemu' type='raw'/></disk>"""
    kind.hypervisor.update_devices(vm_id, lambda _xml: [disk], force=True)
    assert str(image) in kind.hypervisor.xml(vm_id)


def test_screenshot(kind: Kind) -> None:
    vm_id = kind.vm(graphics="vnc")
    picture = kind.hypervisor.screenshot(vm_id)
    assert picture.mime_type.startswith("image/")
    assert len(picture.data) > 10


def test_no_agent_in_the_guest(kind: Kind) -> None:
    vm_id = kind.vm(agent_channel=True)
    with pytest.raises(NotResponding):
        kind.hypervisor.ping_agent(vm_id)
    with pytest.raises(NotResponding):
        kind.hypervisor.order(vm_id, "shutdown", "agent")
    kind.hypervisor.order(vm_id, "shutdown", "acpi")


def test_vm_that_dies(kind: Kind) -> None:
    vm_id = kind.vm()
    kind.crash(vm_id)
    kind.told(Stopped, vm_id=vm_id, cause=StopCause.FAILED)


def test_frozen_vm_costs_its_caller_a_deadline_and_nobody_else(kind: Kind) -> None:
    frozen, healthy = kind.vm(), kind.vm()
    kind.hypervisor.processes([frozen, healthy])
    kind.freeze(frozen)
    eventually(lambda: kind.hypervisor.stopped(frozen), "the kernel has stopped all threads")
    assert not kind.hypervisor.stopped(healthy)
    assert kind.hypervisor.processes([frozen, healthy])[frozen].stopped
    with pytest.raises(Unfinished):
        kind.hypervisor.pause(frozen)
    assert kind.hypervisor.health().abandoned == 1
    assert kind.hypervisor.health().answers
    kind.hypervisor.pause(healthy)
    assert set(kind.hypervisor.cheap([frozen, healthy])) == {frozen, healthy}
    assert kind.hypervisor.xml(frozen)
    seen = kind.hypervisor.monitored([frozen, healthy], cpu=False, deadline_s=5, late=lambda: None)
    assert seen[frozen] is None
    assert seen[healthy] is not None
    kind.thaw(frozen)
    kind.told(Returned, vm_id=frozen)
    eventually(lambda: not kind.hypervisor.health().abandoned, "no call abandoned")
    kind.hypervisor.resume(frozen)


def test_bulk_call_hangs_with_a_frozen_vm_and_comes_back(kind: Kind) -> None:
    vm_ids = [kind.vm(), kind.vm()]
    back = threading.Event()
    kind.freeze(vm_ids[0])
    with pytest.raises(Unfinished):
        kind.hypervisor.monitored(vm_ids, cpu=False, deadline_s=0.5, late=back.set)
    beside = kind.hypervisor.monitored(vm_ids, cpu=False, deadline_s=5, late=lambda: None)
    assert beside[vm_ids[0]] is None
    assert beside[vm_ids[1]] is not None
    assert not back.is_set()
    kind.thaw(vm_ids[0])
    assert back.wait(30)


def test_frozen_vm_can_be_destroyed(kind: Kind) -> None:
    vm_id = kind.vm()
    kind.freeze(vm_id)
    with pytest.raises(Unfinished):
        kind.hypervisor.pause(vm_id)
    kind.hypervisor.destroy(vm_id)
    kind.told(Stopped, vm_id=vm_id)
    assert kind.hypervisor.running() == []


def test_frozen_daemon_is_named_and_then_not_asked(kind: Kind) -> None:
    vm_id = kind.vm()
    kind.freeze_daemon()
    with pytest.raises(NotResponding, match="libvirt does not respond"):
        kind.hypervisor.pause(vm_id)
    threads = threading.active_count()
    health = kind.hypervisor.health()
    assert health.reachable
    assert not health.answers
    for _ in range(20):
        with pytest.raises(NotResponding):
            kind.hypervisor.pause(vm_id)
        with pytest.raises(NotResponding):
            kind.hypervisor.launch("<domain/>", paused=False)
    assert threading.active_count() == threads
    kind.thaw_daemon()
    eventually(lambda: kind.hypervisor.health().answers, "libvirt answers")
    kind.hypervisor.cheap([vm_id])


def test_daemon_killed_and_restarted(kind: Kind) -> None:
    vm_id = kind.vm()
    kind.kill_daemon()
    kind.told(Disconnected)
    with pytest.raises(Unreachable):
        kind.hypervisor.pause(vm_id)
    assert not kind.hypervisor.health().reachable
    kind.restart_daemon()
    kind.told(Connected)
    assert [domain.vm_id for domain in kind.hypervisor.running()] == [vm_id]
    kind.hypervisor.pause(vm_id)
    kind.told(Paused, vm_id=vm_id)
