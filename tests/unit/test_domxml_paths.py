"""Every way out of a VM that domain XML has: refused, and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdsm.base.errors import BadParameter
from vdsm.base.ids import VmId
from vdsm.virt import domxml
from vdsm.virt.domxml import Owner
from vdsm.virt.spec import Limits
from vdsm.virt.traits import HostTraits

ENGINE = (Path(__file__).parent.parent / "samples/engine-vm.xml").read_text()
VM = VmId("5b9c7e0a-3d41-4f0e-9a58-6f2d8e7c1b34")
TRAITS = HostTraits(
    domain_type="kvm",
    emulator="/usr/bin/qemu-system-x86_64",
    machines=frozenset(),
    limits=Limits(max_memory_mib=4096, max_vcpus=64),
    os_name="Debian",
    os_version="12",
    host_serial="S-1",
    run_dir="/run/agent",
    log_dir="/var/log/agent",
)
QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
LOG = f"/var/log/agent/console/{VM}.log"


def prepare(part: str, place: str) -> domxml.Prepared:
    """The Engine's VM with something more in it, just before the end of ``place``."""
    xml = ENGINE.replace(f"</{place}>", f"{part}</{place}>", 1)
    assert part in xml
    return domxml.prepare(xml, VM, Owner("agent-1"), TRAITS)


LEASE = (
    f"<lease><lockspace>{VM}</lockspace><key>{VM}</key>"
    f"<target path='LEASE-PATH:{VM}:{VM}' offset='LEASE-OFFSET:{VM}:{VM}'/></lease>"
)


OUT = {
    "devices": [
        "<filesystem type='mount'><source dir='/etc'/><target dir='x'/></filesystem>",
        "<filesystem type='mount'><driver type='virtiofs'/><source socket='/run/x'/><target dir='x'/></filesystem>",
        "<shmem name='x'><server path='/run/x'/></shmem>",
        "<parallel type='dev'><source path='/dev/parport0'/></parallel>",
        "<audio id='1' type='file' path='/etc/cron.d/x'/>",
        "<nvram/>",
        "<pstore backend='acpi-erst'><path>/etc/x</path></pstore>",
        "<lease><key>a</key><target path='/etc/x'/></lease>",
        f"<lease><key>{VM}</key><target path='LEASE-PATH:{VM}:{VM}' offset='LEASE-OFFSET:{VM}:{VM}'/></lease>",
        LEASE.replace("LEASE-PATH", "/etc/x"),
        LEASE.replace("LEASE-OFFSET:", ""),
        LEASE.replace("</key>", "</key><key>11111111-2222-3333-4444-555555555555</key>"),
        LEASE.replace(f"LEASE-PATH:{VM}", "LEASE-PATH:11111111-2222-3333-4444-555555555555"),
        LEASE.replace(VM, VM.upper()),
        LEASE.replace(VM, "SDM"),
        LEASE + LEASE,
        "<unheard-of/>",
        "<emulator>/tmp/evil</emulator>",
        # character devices
        "<serial type='file'><source path='/etc/cron.d/x'/></serial>",
        "<serial type='dev'><source path='/dev/sda'/></serial>",
        "<serial type='pipe'><source path='/tmp/p'/></serial>",
        "<serial type='tcp'><source mode='bind' host='0.0.0.0' service='1'/></serial>",
        "<serial type='udp'><source mode='connect' host='x' service='1'/></serial>",
        "<serial type='unix'><source mode='bind' path='/run/libvirt/libvirt-sock'/></serial>",
        "<serial type='unix'><source mode='bind' path='/run/agent/console/../svdsm.sock'/></serial>",
        "<serial type='unix'><source mode='bind' path='/run/agent/console/'/></serial>",
        "<serial type='unix'><source mode='connect' path='/run/agent/console/x.sock'/></serial>",
        "<serial type='pty'><log file='/etc/cron.d/x'/></serial>",
        "<console type='file'><source path='/etc/x'/></console>",
        "<channel type='file'><source path='/etc/x'/><target type='virtio' name='a'/></channel>",
        "<channel type='unix'><source mode='connect' path='/run/x'/><target type='virtio' name='a'/></channel>",
        "<channel type='unix'><log file='/etc/x'/><target type='virtio' name='a'/></channel>",
        "<redirdev bus='usb' type='tcp'><source mode='connect' host='x' service='1'/></redirdev>",
        "<smartcard mode='host-certificates'><certificate>a</certificate><database>/etc/x</database></smartcard>",
        "<smartcard mode='passthrough' type='tcp'><source mode='bind' host='x' service='1'/></smartcard>",
        "<rng model='virtio'><backend model='random'>/dev/sda</backend></rng>",
        "<rng model='virtio'><backend model='egd' type='unix'><source mode='connect' path='/run/x'/></backend></rng>",
        "<tpm model='tpm-crb'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
        "<tpm model='tpm-crb'><backend type='external'><source type='unix' path='/run/x'/></backend></tpm>",
        # network cards
        "<interface type='ethernet'><script path='/tmp/evil'/></interface>",
        "<interface type='bridge'><source bridge='b'/><script path='/tmp/evil'/></interface>",
        "<interface type='bridge'><source bridge='b'/><script path='evil'/></interface>",
        "<interface type='bridge'><source bridge='b'/><downscript path='/tmp/evil'/></interface>",
        "<interface type='bridge'><source bridge='b'/><backend tap='/dev/x' vhost='/dev/y'/></interface>",
        "<interface type='vhostuser'><source type='unix' path='/run/x' mode='client'/></interface>",
        "<interface type='direct'><source dev='../x'/></interface>",
        "<interface type='bridge'><source bridge='b'/><rom file='/etc/shadow'/></interface>",
        # displays
        "<graphics type='vnc' socket='/run/x'/>",
        "<graphics type='vnc'><listen type='socket' socket='/run/x'/></graphics>",
        "<graphics type='sdl' xauth='/root/.Xauthority'/>",
        "<graphics type='dbus' address='unix:path=/run/x'/>",
        "<graphics type='spice'><gl enable='yes' rendernode='/dev/dri/renderD128'/></graphics>",
        "<graphics type='egl-headless'><gl rendernode='/dev/sda'/></graphics>",
        "<video><model type='virtio'/><driver vgaconf='on' /><acceleration rendernode='/dev/x'/></video>",
        # memory, host devices, disks
        "<memory model='nvdimm'><source><path>/dev/sda</path></source><target><size>1</size></target></memory>",
        "<memory model='nvdimm'><source><path>dev/sda</path></source><target><size>1</size></target></memory>",
        "<hostdev mode='subsystem' type='pci'><source/><rom file='/etc/shadow'/></hostdev>",
        "<hostdev mode='capabilities' type='storage'><source><block>/dev/sda</block></source></hostdev>",
        "<disk type='network'><driver type='raw'/><source protocol='nbd' name='x'/><target dev='vdz'/></disk>",
        "<disk type='dir'><driver type='fat'/><source dir='/etc'/><target dev='vdz'/></disk>",
        "<disk type='volume'><source pool='p' volume='v'/><target dev='vdz'/></disk>",
        "<disk type='nvme'><source type='pci' managed='yes' namespace='1'/><target dev='vdz'/></disk>",
        "<disk type='vhostuser'><source type='unix' path='/run/x'/><target dev='vdz'/></disk>",
        "<disk type='file'><source file='/images/x'/><target dev='vdz'/></disk>",
        "<disk type='file'><driver type='vmdk'/><source file='/images/x'/><target dev='vdz'/></disk>",
        "<disk type='file'><driver type='raw'/><target dev='vdz'/></disk>",
        "<disk type='file'><driver type='raw'/><source file='PAYLOAD:'/><target dev='vdz'/></disk>",
        (
            "<disk type='file'><driver type='qcow2'/><source file='/images/x'/><target dev='vdz'/>"
            "<backingStore type='file'><format type='raw'/><source file='/etc/shadow'/></backingStore></disk>"
        ),
        (
            "<disk type='file'><driver type='qcow2'/><source file='/images/x'/><target dev='vdz'/>"
            "<mirror type='file'><source file='/etc/x'/></mirror></disk>"
        ),
        (
            "<disk type='file'><driver type='raw'/><source file='/images/x'/><source file='/etc/shadow'/>"
            "<target dev='vdz'/></disk>"
        ),
        (
            "<disk type='block'><driver type='raw'/><source dev='/images/x'>"
            "<reservations managed='no'><source type='unix' path='/run/x' mode='client'/></reservations></source>"
            "<target dev='vdz'/></disk>"
        ),
        f"<q:x xmlns:q='{QEMU}'/>",
        f"<video xmlns:q='{QEMU}' q:x='1'><model type='vga'/></video>",
    ],
    "os": [
        "<loader readonly='yes' type='pflash'>/etc/shadow</loader>",
        "<loader>/usr/share/OVMF/../../../etc/shadow</loader>",
        "<nvram>/etc/cron.d/x</nvram>",
        "<nvram template='/etc/shadow'>/var/lib/libvirt/qemu/nvram/x.fd</nvram>",
        "<nvram type='file'><source file='/etc/x'/></nvram>",
        "<dtb>/etc/shadow</dtb>",
        "<dtb>etc/shadow</dtb>",
        "<acpi><table type='slic'>/etc/shadow</table></acpi>",
        "<init>/bin/sh</init>",
    ],
    "domain": [
        f"<q:commandline xmlns:q='{QEMU}'><q:arg value='-S'/></q:commandline>",
        f"<q:override xmlns:q='{QEMU}'/>",
        f"<commandline xmlns='{QEMU}'><arg value='-S'/></commandline>",
        "<bootloader>/tmp/evil</bootloader>",
        "<seclabel type='none'/>",
        "<seclabel type='static' model='dac'><label>+0:+0</label></seclabel>",
        "<idmap/>",
        "<sysinfo type='fwcfg'><entry name='opt/x' file='/etc/shadow'/></sysinfo>",
        "<sysinfo type='fwcfg'><entry name='opt/x' file='etc/shadow'/></sysinfo>",
        "<devices/>",
        "<os><type>hvm</type></os>",
        "<metadata/>",
    ],
}


@pytest.mark.parametrize(("place", "part"), [(place, part) for place, parts in OUT.items() for part in parts])
def test_a_way_out_is_refused_and_named(place, part):
    with pytest.raises(BadParameter) as caught:
        prepare(part, place)
    assert caught.value.field.startswith("xml.")


@pytest.mark.parametrize(
    ("place", "part", "field"),
    [
        ("devices", OUT["devices"][0], "xml.devices.filesystem[0]"),
        ("devices", "<emulator>/tmp/evil</emulator>", "xml.devices.emulator"),
        ("devices", "<interface type='user'><script path='/x'/></interface>", "xml.devices.interface[1].script@path"),
        (
            "devices",
            "<disk type='file'><driver type='x'/><source file='/a'/><target dev='vdz'/></disk>",
            "xml.devices.disk[vdz].driver@type",
        ),
        ("domain", OUT["domain"][0], "xml.commandline"),
        ("os", "<dtb>/x</dtb>", "xml.os.dtb"),
    ],
)
def test_the_name_leads_to_the_element(place, part, field):
    with pytest.raises(BadParameter) as caught:
        prepare(part, place)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("devices", "<hostdev mode='subsystem' type='pci' managed='no'><source><address bus='1'/></source></hostdev>"),
        (
            "devices",
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='x'/></source></hostdev>",
        ),
        ("devices", "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>"),
        ("devices", "<interface type='bridge'><source bridge='b'/><target dev='vnet9'/></interface>"),
        ("devices", "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"),
        ("devices", "<watchdog model='i6300esb' action='none'/>"),
        ("devices", "<sound model='ich9'/>"),
        ("devices", "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>"),
        ("devices", "<redirdev bus='usb' type='spicevmc'/>"),
        ("devices", "<rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng>"),
        ("devices", "<graphics type='spice' passwd='/slash'><listen type='none'/></graphics>"),
        ("devices", f"<serial type='pty'><log file='{LOG}'/></serial>"),
        ("os", "<loader readonly='yes' secure='no' type='pflash'>/usr/share/OVMF/OVMF_CODE.secboot.fd</loader>"),
        ("os", "<nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/x.fd</nvram>"),
        ("domain", "<resource><partition>/machine</partition></resource>"),
        ("domain", "<description>/a path in words</description>"),
        ("domain", "<memoryBacking><hugepages><page size='2048'/></hugepages></memoryBacking>"),
    ],
)
def test_what_an_engine_may_send_is_taken(place, part):
    prepare(part, place)


def test_all_disks_are_named_wherever_they_are():
    more = (
        "<disk type='block' device='lun'><driver type='raw'/><source dev='/dev/sdq'/><target dev='sdx'/></disk>"
        "<disk device='cdrom'><driver type='raw'/><source file='/i.iso'/><target dev='sdy'/></disk>"
    )
    images = prepare(more, "devices").images
    assert [(i.target, i.path, i.readonly) for i in images[1:]] == [("sdx", "/dev/sdq", False), ("sdy", "/i.iso", True)]
