"""Every XML that is built or prepared is one that a real libvirt starts; what it then says is what was asked for."""

from __future__ import annotations

import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import libvirt
import pytest

from lab.light import LightHost
from needs import needs, require
from vdsm.base.ids import VmId, new_vm_id
from vdsm.privileged.local import LocalPrivileged
from vdsm.virt import domxml
from vdsm.virt.disks import Location, PathImages
from vdsm.virt.domxml import Owner, Prepared
from vdsm.virt.spec import BootSpec, DiskSpec, Limits, NicSpec, VmSpec
from vdsm.virt.traits import HostTraits

pytestmark = needs("root", "qemu", "program:libvirtd", "program:unshare", "program:qemu-img")

ENGINE = (Path(__file__).parent.parent / "samples/engine-vm.xml").read_text()
ENGINE_VM = VmId("5b9c7e0a-3d41-4f0e-9a58-6f2d8e7c1b34")
OWNER = Owner(instance="agent-1", origin="local", created="2026-01-02T03:04:05+00:00")


@dataclass
class Host:
    """A private libvirt with a bridge, images, and what domain XML needs to know of it."""

    connection: libvirt.virConnect
    traits: HostTraits
    directory: Path
    images: PathImages

    def spec(self, **fields: object) -> VmSpec:
        vm_id = new_vm_id()
        return replace(VmSpec(vm_id=vm_id, name=f"t-{vm_id[:8]}", memory_mib=64), **fields)

    def image(self, name: str, image_format: str = "raw", size: str = "4M") -> str:
        path = self.directory / name
        subprocess.run(["qemu-img", "create", "-q", "-f", image_format, path, size], check=True, timeout=30)
        return str(path)

    @contextmanager
    def started(self, prepared: Prepared) -> Iterator[libvirt.virDomain]:
        domain = self.connection.createXML(prepared.xml, libvirt.VIR_DOMAIN_START_PAUSED)
        try:
            yield domain
        finally:
            domain.destroy()

    def placed(self, prepared: Prepared) -> Prepared:
        return domxml.place(prepared, {ref.target: self.images.prepare(ref) for ref in prepared.images})


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    require("root", "qemu", "program:libvirtd", "program:unshare")
    # Sockets have short names, so not in pytest's own directory.
    with tempfile.TemporaryDirectory(prefix="dx") as place:
        directory = Path(place)
        for part in ("run/console", "log/console", "images"):
            (directory / part).mkdir(parents=True)
        with LightHost(directory / "h", "dx", network=True) as light:
            light.run("ip", "link", "add", "ovirtmgmt", "type", "bridge")
            connection = libvirt.open(light.uri)
            machines = ET.fromstring(connection.getCapabilities()).iterfind("guest/arch[@name='x86_64']/machine")
            traits = HostTraits(
                domain_type="qemu",
                emulator="/usr/bin/qemu-system-x86_64",
                machines=frozenset(machine.text or "" for machine in machines),
                limits=Limits(max_memory_mib=4096, max_vcpus=16),
                os_name="Debian",
                os_version="12",
                host_serial="S-1",
                network_filters=frozenset(connection.listNWFilters()),
                run_dir=str(directory / "run"),
                log_dir=str(directory / "log"),
            )
            images = PathImages(LocalPrivileged(call_deadline_s=10, kvm_probe_s=10), [str(directory / "images")])
            try:
                yield Host(connection, traits, directory / "images", images)
            finally:
                connection.close()


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("graphics", ["vnc", None])
@pytest.mark.parametrize("cpu_model", [None, "qemu64", "Nehalem"])
def test_described_vms_start(host, machine, graphics, cpu_model):
    spec = host.spec(
        vcpus=2,
        machine=machine,
        graphics=graphics,
        cpu_model=cpu_model,
        disks=(
            DiskSpec(host.image("root.qcow2", "qcow2"), format="qcow2", serial="root"),
            DiskSpec(host.image("data"), readonly=True),
            DiskSpec(host.image("scsi"), bus="scsi", serial="a-serial-of-thirty-six-characters-00"),
            DiskSpec(host.image("sata"), bus="sata"),
            DiskSpec(None, device="cdrom"),
            DiskSpec(host.image("cd"), device="cdrom", bus="scsi"),
            DiskSpec(host.image("floppy", size="1440K"), device="floppy"),
        ),
        nics=(NicSpec(), NicSpec(network="ovirtmgmt"), NicSpec(model="e1000"), NicSpec(model="rtl8139")),
        boot=BootSpec(order=("network", "cdrom", "disk")),
    )
    prepared = host.placed(domxml.build(spec, OWNER, host.traits))
    with host.started(prepared) as domain:
        facts = domxml.describe(domain.XMLDesc())
        asked = prepared.facts
        assert facts.owner == OWNER
        assert (facts.memory_kib, facts.vcpus, facts.agent_channel) == (65536, 2, True)
        assert {d.target: (d.path, d.bus, d.serial, d.readonly) for d in facts.disks} == {
            d.target: (d.path, d.bus, d.serial, d.readonly) for d in asked.disks
        }
        assert [(n.mac, n.model, n.network) for n in facts.nics] == [(n.mac, n.model, n.network) for n in asked.nics]
        assert facts.console == asked.console
        assert Path(facts.console.path).is_socket()
        assert [g.kind for g in facts.graphics] == ([graphics] if graphics else [])
        assert all(g.port and g.address == "127.0.0.1" for g in facts.graphics)


def test_the_smallest_vm_starts(host):
    spec = host.spec(memory_mib=16, graphics=None, console=False, agent_channel=False)
    with host.started(domxml.build(spec, OWNER, host.traits)) as domain:
        facts = domxml.describe(domain.XMLDesc())
    assert (facts.console, facts.agent_channel, facts.graphics) == (None, False, ())


def boot_image() -> bytes:
    """The least that QEMU takes for a Linux kernel; the VM is never let run. Fields of the x86 boot protocol 2.12."""
    header = bytearray(0x1000)
    header[0x1F1] = 1  # setup sectors
    header[0x1FE:0x200] = b"\x55\xaa"
    header[0x202:0x208] = b"HdrS\x0c\x02"
    header[0x211] = 1  # loaded high
    header[0x22C:0x230] = b"\xff\xff\xff\x7f"  # where the initrd may end
    return bytes(header)


def test_a_kernel_is_booted_directly(host):
    kernel = host.image("kernel")
    Path(kernel).write_bytes(boot_image())
    spec = host.spec(boot=BootSpec(kernel=kernel, initrd=host.image("initrd"), cmdline="console=ttyS0 a='<&>'"))
    with host.started(host.placed(domxml.build(spec, OWNER, host.traits))) as domain:
        live = ET.fromstring(domain.XMLDesc())
    assert live.findtext("os/kernel") == kernel
    assert live.findtext("os/cmdline") == "console=ttyS0 a='<&>'"


def test_a_block_device_starts_as_one(host):
    require("program:losetup")
    device = subprocess.run(
        ["losetup", "--find", "--show", host.image("block")], check=True, timeout=30, capture_output=True, text=True
    ).stdout.strip()
    try:
        images = PathImages(LocalPrivileged(call_deadline_s=10, kvm_probe_s=10), ["/dev"])
        prepared = domxml.build(host.spec(disks=(DiskSpec(device),)), OWNER, host.traits)
        prepared = domxml.place(prepared, {ref.target: images.prepare(ref) for ref in prepared.images})
        with host.started(prepared) as domain:
            (disk,) = domxml.describe(domain.XMLDesc()).disks
        assert (disk.kind, disk.path) == ("block", device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)


CPUS = {
    "named": "<model>Nehalem</model>",
    "newer than the host's": "<model>Icelake-Server</model><feature name='vmx' policy='require'/>",
}


@pytest.mark.parametrize("cpu", CPUS.values(), ids=CPUS)
def test_an_engines_vm_starts_without_kvm(host, cpu):
    image = host.image("engine.qcow2", "qcow2")
    xml = ENGINE.replace("<model>Nehalem</model>", cpu)
    prepared = domxml.prepare(xml, ENGINE_VM, replace(OWNER, origin="engine"), host.traits)
    with host.started(domxml.place(prepared, {"vda": Location(image)})) as domain:
        text = domain.XMLDesc()
        facts = domxml.describe(text)
        assert facts.domain_type == "qemu"
        assert (facts.name, facts.vm_id, facts.vcpus, facts.max_vcpus) == ("web-01", ENGINE_VM, 1, 16)
        disk = facts.disk("vda")
        assert (disk.path, disk.alias, disk.image_id) == (
            image,
            "ua-2f60b9a4-58c1-4f61-8b37-cf1f4f7f0b88",
            "2f60b9a4-58c1-4f61-8b37-cf1f4f7f0b88",
        )
        assert (facts.nics[0].network, facts.nics[0].bridge) == ("ovirtmgmt", "ovirtmgmt")
        assert facts.console.path == host.traits.console_socket(ENGINE_VM)
        assert facts.owner.origin == "engine"
        assert "<ovirt-vm:imageID>" in text
        system = {e.get("name"): e.text for e in ET.fromstring(text).iterfind("sysinfo/system/entry")}
        assert (system["product"], system["version"], system["serial"]) == ("Debian", "12", "S-1")


KVM_ONLY = {
    "the host's CPU": (
        '<cpu match="exact">\n    <model>Nehalem</model>',
        "<cpu mode='host-passthrough' migratable='on'><feature name='vmx' policy='require'/>",
    ),
    "hyper-v": (
        "<acpi/>",
        "<acpi/><hyperv><relaxed state='on'/><vapic state='on'/></hyperv><kvm><hidden state='on'/></kvm>",
    ),
    "timers": ("</clock>", "<timer name='hypervclock' present='yes'/><timer name='kvmclock' present='yes'/></clock>"),
}


@pytest.mark.parametrize("change", KVM_ONLY.values(), ids=KVM_ONLY)
def test_what_needs_kvm_is_adapted(host, change):
    assert change[0] in ENGINE
    prepared = domxml.prepare(ENGINE.replace(*change, 1), ENGINE_VM, OWNER, host.traits)
    with host.started(domxml.place(prepared, {"vda": Location(host.image("engine.qcow2", "qcow2"))})) as domain:
        assert domxml.describe(domain.XMLDesc()).owner == OWNER


def test_media_are_changed_in_a_running_vm(host):
    first, second, third = (host.image(name, size="1440K") for name in ("first", "second", "third"))
    disks = (
        DiskSpec(first, device="cdrom"),
        DiskSpec(None, device="cdrom", bus="scsi"),
        DiskSpec(None, device="floppy"),
    )
    with host.started(domxml.build(host.spec(disks=disks), OWNER, host.traits)) as domain:

        def change(target: str, location: Location | None) -> str:
            domain.updateDeviceFlags(domxml.medium(domain.XMLDesc(), target, location))
            return domxml.describe(domain.XMLDesc()).disk(target).path

        for target in ("sda", "sdb", "fda"):
            assert change(target, Location(second)) == second
            assert change(target, None) == ""
            assert change(target, Location(third)) == third
            assert change(target, None) == ""


def test_media_are_changed_in_an_engines_vm(host):
    prepared = domxml.prepare(ENGINE, ENGINE_VM, OWNER, host.traits)
    with host.started(domxml.place(prepared, {"vda": Location(host.image("engine.qcow2", "qcow2"))})) as domain:
        for location in (Location(host.image("cd.iso")), None):
            domain.updateDeviceFlags(domxml.medium(domain.XMLDesc(), "sdc", location))
            assert domxml.describe(domain.XMLDesc()).disk("sdc").path == (location.path if location else "")


def test_a_ticket_is_set_and_only_its_end_is_told(host):
    with host.started(domxml.build(host.spec(), OWNER, host.traits)) as domain:
        before = domxml.describe(domain.XMLDesc())
        until = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=2)
        domain.updateDeviceFlags(domxml.ticket(domain.XMLDesc(), "vnc", "s3cr3t", until, "keep"))
        text = domain.XMLDesc()
        graphics = ET.fromstring(text).find("devices/graphics")
        assert graphics.get("passwdValidTo") == until.strftime("%Y-%m-%dT%H:%M:%S")
        assert "s3cr3t" not in text
        assert "s3cr3t" in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
        assert domxml.describe(text) == before
