"""The XML that is built from a description, read back."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdsm.base.errors import BadParameter
from vdsm.base.ids import VmId
from vdsm.virt import domxml
from vdsm.virt.domxml import Owner
from vdsm.virt.spec import BootSpec, DiskSpec, Limits, NicSpec, VmSpec
from vdsm.virt.traits import HostTraits

VM = VmId("6f6b9a1e-2c52-4d0c-9a71-0a3f5c1d2e4b")
OWNER = Owner(instance="agent-1", origin="local", created="2026-01-02T03:04:05+00:00")
TCG = HostTraits(
    domain_type="qemu",
    emulator="/usr/bin/qemu-system-x86_64",
    machines=frozenset({"q35", "pc", "pc-q35-7.2"}),
    limits=Limits(max_memory_mib=4096, max_vcpus=8),
    os_name="Debian",
    os_version="12",
    host_serial="S-1",
    run_dir="/run/agent",
    log_dir="/var/log/agent",
    display_address="192.0.2.7",
)
KVM = replace(TCG, domain_type="kvm")
PLAIN = VmSpec(vm_id=VM, name="web-01", memory_mib=256, vcpus=2)


def built(spec, traits=TCG):
    return ET.fromstring(domxml.build(spec, OWNER, traits).xml)


def test_facts_say_what_was_described():
    spec = replace(
        PLAIN,
        disks=(
            DiskSpec("/images/root.qcow2", format="qcow2", serial="root"),
            DiskSpec("/images/data", bus="scsi"),
            DiskSpec(None, device="cdrom"),
            DiskSpec("/images/drivers", device="floppy"),
        ),
        nics=(NicSpec(network="br0", mac="52:54:00:AA:BB:CC"), NicSpec(model="e1000")),
        launch_paused=True,
    )
    facts = domxml.build(spec, OWNER, TCG).facts
    assert (facts.vm_id, facts.name, facts.domain_type) == (VM, "web-01", "qemu")
    assert (facts.memory_kib, facts.min_memory_kib, facts.vcpus) == (262144, 262144, 2)
    assert [(d.target, d.bus, d.device, d.path, d.format, d.readonly) for d in facts.disks] == [
        ("vda", "virtio", "disk", "/images/root.qcow2", "qcow2", False),
        ("sda", "scsi", "disk", "/images/data", "raw", False),
        ("sdb", "sata", "cdrom", "", "raw", True),
        ("fda", "fdc", "floppy", "/images/drivers", "raw", False),
    ]
    assert facts.disks[0].serial == "root"
    assert [(n.mac, n.kind, n.network, n.model) for n in facts.nics] == [
        ("52:54:00:aa:bb:cc", "bridge", "br0", "virtio"),
        (domxml.mac_of(VM, 1), "user", "", "e1000"),
    ]
    assert facts.console is not None
    assert facts.console.path == f"/run/agent/console/{VM}.sock"
    assert facts.agent_channel
    assert facts.balloon
    assert facts.acpi
    assert facts.launch_paused
    assert facts.owner == OWNER
    assert [(g.kind, g.address) for g in facts.graphics] == [("vnc", "192.0.2.7")]


def test_images_are_named_as_the_description_names_them():
    spec = replace(
        PLAIN,
        disks=(
            DiskSpec(None, device="cdrom"),
            DiskSpec("/images/a", format="qcow2"),
            DiskSpec("/i.iso", device="cdrom"),
        ),
        boot=BootSpec(kernel="/k", initrd="/i"),
    )
    images = domxml.build(spec, OWNER, TCG).images
    assert [(i.field, i.target, i.path, i.format, i.readonly) for i in images] == [
        ("disks[1].path", "vda", "/images/a", "qcow2", False),
        ("disks[2].path", "sdb", "/i.iso", "raw", True),
        ("boot.kernel", "kernel", "/k", None, True),
        ("boot.initrd", "initrd", "/i", None, True),
    ]


def test_a_display_is_closed_until_a_ticket_is_set():
    first, second = (built(PLAIN).find("devices/graphics") for _ in range(2))
    assert first.get("passwdValidTo") == "1970-01-01T00:00:01"
    assert len(first.get("passwd")) == 8
    assert first.get("passwd") != second.get("passwd")


def test_no_console_no_agent_no_display():
    prepared = domxml.build(replace(PLAIN, console=False, agent_channel=False, graphics=None), OWNER, TCG)
    assert prepared.facts.console is None
    assert not prepared.facts.agent_channel
    assert prepared.facts.graphics == ()
    assert ET.fromstring(prepared.xml).find("devices/video/model").get("type") == "none"


def test_cpu_fits_the_way_it_runs():
    assert built(PLAIN).find("cpu").get("mode") == "maximum"
    assert built(PLAIN, KVM).find("cpu").get("mode") == "host-passthrough"
    named = built(replace(PLAIN, cpu_model="Nehalem"))
    assert named.findtext("cpu/model") == "Nehalem"
    assert named.find("cpu").get("check") == "none"
    assert built(replace(PLAIN, cpu_model="Nehalem"), KVM).find("cpu").get("check") is None
    assert built(PLAIN).find("cpu/topology").attrib == {"sockets": "1", "cores": "2", "threads": "1"}


def test_boot_order_goes_over_all_devices_of_a_kind():
    spec = replace(
        PLAIN,
        disks=(DiskSpec("/a"), DiskSpec(None, device="cdrom"), DiskSpec("/b")),
        nics=(NicSpec(),),
        boot=BootSpec(order=("network", "disk")),
    )
    devices = built(spec).find("devices")
    orders = {
        element.find("target").get("dev"): element.find("boot").get("order")
        for element in devices.findall("disk")
        if element.find("boot") is not None
    }
    assert orders == {"vda": "2", "vdb": "3"}
    assert devices.find("interface/boot").get("order") == "1"


def test_a_kernel_given_directly_leaves_no_boot_order():
    spec = replace(PLAIN, disks=(DiskSpec("/a"),), boot=BootSpec(kernel="/k", initrd="/i", cmdline="a=<b> & 'c'"))
    root = built(spec)
    assert root.find("devices/disk/boot") is None
    assert (root.findtext("os/kernel"), root.findtext("os/initrd")) == ("/k", "/i")
    assert root.findtext("os/cmdline") == "a=<b> & 'c'"


def test_a_full_disk_pauses_the_guest_and_media_are_read_only():
    root = built(replace(PLAIN, disks=(DiskSpec("/a"), DiskSpec("/b", readonly=True), DiskSpec("/c", device="cdrom"))))
    drivers = [disk.find("driver").get("error_policy") for disk in root.iterfind("devices/disk")]
    assert drivers == ["stop", None, None]
    assert [disk.find("readonly") is not None for disk in root.iterfind("devices/disk")] == [False, True, True]


def test_virtio_scsi_only_where_something_is_connected_to_it():
    assert built(PLAIN).find("devices/controller[@type='scsi']") is None
    assert (
        built(replace(PLAIN, disks=(DiskSpec("/a", bus="scsi"),))).find("devices/controller[@type='scsi']") is not None
    )


def test_more_disks_than_letters():
    facts = domxml.build(replace(PLAIN, disks=(DiskSpec("/a"),) * 30), OWNER, TCG).facts
    assert [disk.target for disk in facts.disks][25:28] == ["vdz", "vdaa", "vdab"]


@settings(deadline=None)
@given(st.uuids(), st.integers(0, 31))
def test_generated_addresses_are_local_unicast_and_stay(ident, index):
    mac = domxml.mac_of(VmId(str(ident)), index)
    assert re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac)
    assert int(mac[:2], 16) & 3 == 2
    assert mac == domxml.mac_of(VmId(str(ident)), index)
    assert mac != domxml.mac_of(VmId(str(ident)), index + 1)


def test_a_generated_address_is_the_same_in_every_process():
    assert domxml.mac_of(VM, 0) == "52:66:95:8e:51:a0"


def test_a_bad_description_is_refused_in_its_own_words():
    with pytest.raises(BadParameter, match="vcpus"):
        domxml.build(replace(PLAIN, vcpus=0), OWNER, TCG)


cmdlines = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp", "Zs")), max_size=60)


@settings(deadline=None)
@given(cmdline=cmdlines, memory=st.integers(16, 4096), vcpus=st.integers(1, 8))
def test_whatever_is_described_is_read_back(cmdline, memory, vcpus):
    spec = replace(PLAIN, memory_mib=memory, vcpus=vcpus, boot=BootSpec(kernel="/k", cmdline=cmdline))
    prepared = domxml.build(spec, OWNER, TCG)
    assert (ET.fromstring(prepared.xml).findtext("os/cmdline") or "") == cmdline
    assert prepared.facts.memory_kib == memory * 1024
    assert prepared.facts == domxml.describe(prepared.xml)
