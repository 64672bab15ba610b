"""Domain XML from outside: what is taken, what is changed, what is refused and how the refusal names it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdsm.base.errors import BadParameter
from vdsm.base.ids import VmId
from vdsm.virt import domxml
from vdsm.virt.disks import Location
from vdsm.virt.domxml import Owner
from vdsm.virt.spec import Limits
from vdsm.virt.traits import HostTraits

ENGINE = (Path(__file__).parent.parent / "samples/engine-vm.xml").read_text()
VM = VmId("5b9c7e0a-3d41-4f0e-9a58-6f2d8e7c1b34")
DISK = "2f60b9a4-58c1-4f61-8b37-cf1f4f7f0b88"
OWNER = Owner(instance="agent-1", origin="engine", created="2026-01-02T03:04:05+00:00")
KVM = HostTraits(
    domain_type="kvm",
    emulator="/usr/bin/qemu-system-x86_64",
    machines=frozenset({"q35", "pc", "pc-q35-6.2", "pc-q35-7.2", "pc-q35-7.10", "pc-i440fx-7.2"}),
    limits=Limits(max_memory_mib=4096, max_vcpus=64),
    os_name="Debian",
    os_version="12",
    host_serial="S-1",
    network_filters=frozenset({"no-mac-spoofing"}),
    run_dir="/run/agent",
    log_dir="/var/log/agent",
    display_address="192.0.2.7",
)
TCG = replace(KVM, domain_type="qemu")


def changed(old: str, new: str) -> str:
    assert ENGINE.count(old) >= 1, old
    return ENGINE.replace(old, new, 1)


def prepare(xml: str = ENGINE, traits: HostTraits = KVM) -> domxml.Prepared:
    return domxml.prepare(xml, VM, OWNER, traits)


def tree(xml: str = ENGINE, traits: HostTraits = KVM) -> ET.Element:
    return ET.fromstring(prepare(xml, traits).xml)


def refused(xml: str, traits: HostTraits = KVM) -> BadParameter:
    with pytest.raises(BadParameter) as caught:
        prepare(xml, traits)
    return caught.value


# -- what is taken


def test_facts_of_an_engines_vm():
    facts = prepare().facts
    assert (facts.vm_id, facts.name, facts.domain_type) == (VM, "web-01", "kvm")
    assert (facts.memory_kib, facts.max_memory_kib, facts.min_memory_kib) == (262144, 1048576, 192 * 1024)
    assert (facts.vcpus, facts.max_vcpus) == (1, 16)
    assert facts.agent_channel
    assert facts.balloon
    assert not facts.launch_paused
    assert facts.resume_behavior == "auto_resume"
    assert [nic.network for nic in facts.nics] == ["ovirtmgmt"]
    cdrom, disk = facts.disks
    assert (cdrom.target, cdrom.device, cdrom.path) == ("sdc", "cdrom", "")
    assert (disk.target, disk.image_id, disk.alias) == ("vda", DISK, f"ua-{DISK}")


def test_the_disk_is_named_for_the_images_door():
    (image,) = prepare().images
    assert (image.field, image.target, image.format) == ("xml.devices.disk[vda].source", "vda", "qcow2")
    assert image.path.endswith("e1d2c3b4-a596-4877-8690-a1b2c3d4e599")
    assert image.image_id == DISK
    assert (image.pool_id[:8], image.domain_id[:8], image.volume_id[:8]) == ("4a1f0c02", "9c1e2f5a", "e1d2c3b4")


def test_placeholders_are_filled():
    entries = {entry.get("name"): entry.text for entry in tree().iterfind("sysinfo/system/entry")}
    assert (entries["product"], entries["version"], entries["serial"]) == ("Debian", "12", "S-1")
    assert entries["manufacturer"] == "oVirt"


def test_the_mark_is_put_on_and_a_forged_one_taken_off():
    forged = '<vdsm:agent xmlns:vdsm="urn:vdsm:agent:1" instance="other" origin="local"/></metadata>'
    prepared = prepare(changed("</metadata>", forged))
    assert prepared.facts.owner == OWNER
    assert "other" not in prepared.xml


def test_metadata_keeps_its_names_and_prefixes():
    xml = prepare().xml
    for text in ("<ovirt-tune:qos", "<ovirt-vm:vm ", f"<ovirt-vm:imageID>{DISK}</ovirt-vm:imageID>", "<devices>"):
        assert text in xml
    assert "</devices>" in xml


def test_metadata_without_prefixes_is_read_as_older_engines_write_it():
    plain = ENGINE.replace("<ovirt-vm:launchPaused>false</ovirt-vm:", "<launchPaused>true</")
    assert prepare(plain).facts.launch_paused


def test_machine_ids_in_capitals_are_the_same():
    assert prepare(changed(f"<uuid>{VM}", f"<uuid>{VM.upper()}")).vm_id == VM


# -- what is made to fit


def test_the_console_moves_to_the_agents_directory():
    sources = tree().findall("devices/console/source")
    assert [source.attrib for source in sources] == [{"path": f"/run/agent/console/{VM}.sock", "mode": "bind"}]


def test_a_second_serial_port_has_its_own_socket():
    path = "/run/ovirt-vmconsole-console/x.sock"
    two = f"<serial type='unix'><source mode='bind' path='{path}'/></serial>" * 2
    sources = tree(changed("</devices>", two + "</devices>")).findall("devices/serial/source")
    assert [source.get("path") for source in sources] == [
        f"/run/agent/console/{VM}.sock",
        f"/run/agent/console/{VM}-1.sock",
    ]


def test_libvirt_chooses_the_channels_sockets():
    assert tree().findall("devices/channel/source") == []


def test_the_display_listens_where_the_hosts_displays_do():
    graphics = tree().find("devices/graphics")
    assert graphics.find("listen").attrib == {"type": "address", "address": "192.0.2.7"}
    assert (graphics.get("passwd"), graphics.get("passwdValidTo")) == ("*****", "1970-01-01T00:00:01")


def test_the_display_listens_on_the_network_that_the_manager_names():
    traits = replace(KVM, network_addresses={"ovirtmgmt": "198.51.100.4"})
    root = ET.fromstring(prepare(ENGINE, traits).xml)
    assert root.find("devices/graphics/listen").attrib == {"type": "address", "address": "198.51.100.4"}


def test_a_display_without_a_password_is_closed():
    graphics = tree(changed(' passwd="*****" passwdValidTo="1970-01-01T00:00:01"', "")).find("devices/graphics")
    assert graphics.get("passwdValidTo") == "1970-01-01T00:00:01"
    assert len(graphics.get("passwd")) == 8


def test_the_filter_is_the_one_that_libvirt_has():
    assert tree().find("devices/interface/filterref").get("filter") == "no-mac-spoofing"
    both = replace(KVM, network_filters=frozenset({"vdsm-no-mac-spoofing", "no-mac-spoofing"}))
    assert tree(traits=both).find("devices/interface/filterref").get("filter") == "vdsm-no-mac-spoofing"
    neither = replace(KVM, network_filters=frozenset({"allow-arp"}))
    assert refused(ENGINE, neither).field == "xml.devices.interface[0].filterref"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("pc-q35-rhel9.6.0", "pc-q35-7.10"),
        ("pc-i440fx-rhel7.6.0", "pc-i440fx-7.2"),
        ("pc-q35-6.2", "pc-q35-6.2"),
        ("q35", "q35"),
    ],
)
def test_machines(asked, given):
    assert tree(changed("pc-q35-rhel9.6.0", asked)).find("os/type").get("machine") == given


def test_a_machine_that_qemu_does_not_know_is_refused():
    assert refused(changed("pc-q35-rhel9.6.0", "pc-q35-99.0")).field == "xml.os.type@machine"


def test_unknown_machines_are_left_to_libvirt_while_the_hosts_are_not_known():
    assert tree(traits=replace(KVM, machines=frozenset())).find("os/type").get("machine") == "pc-q35-rhel9.6.0"


@pytest.mark.parametrize("path", ["/usr/libexec/qemu-kvm", "/usr/bin/qemu-system-x86_64", None])
def test_the_emulator_is_the_hosts(path):
    xml = ENGINE if path is None else changed("<devices>", f"<devices><emulator>{path}</emulator>")
    assert [e.text for e in tree(xml).iterfind("devices/emulator")] == ["/usr/bin/qemu-system-x86_64"]


# -- kvm -> qemu

KVM_ONLY = ENGINE.replace(
    "<acpi/>",
    "<acpi/><hyperv><relaxed state='on'/></hyperv><kvm><hidden state='on'/></kvm><ioapic driver='kvm'/>",
).replace("</clock>", "<timer name='hypervclock' present='yes'/><timer name='kvmclock'/></clock>")


def test_with_kvm_nothing_of_it_is_touched():
    root = tree(KVM_ONLY)
    assert root.get("type") == "kvm"
    assert [child.tag for child in root.find("features")] == ["acpi", "hyperv", "kvm", "ioapic", "vmcoreinfo"]
    assert len(root.findall("clock/timer")) == 5
    assert root.find("cpu").attrib == {"match": "exact"}
    assert root.find("devices/interface/driver").attrib == {"queues": "2", "name": "vhost"}


def test_without_kvm_what_needs_it_is_left_out():
    root = tree(KVM_ONLY, TCG)
    assert root.get("type") == "qemu"
    assert [child.tag for child in root.find("features")] == ["acpi", "vmcoreinfo"]
    assert [timer.get("name") for timer in root.iterfind("clock/timer")] == ["rtc", "hpet"]
    assert root.find("cpu").attrib == {"match": "exact", "check": "none"}
    assert root.findtext("cpu/model") == "Nehalem"
    assert root.find("devices/interface/driver").attrib == {"queues": "2"}


@pytest.mark.parametrize("mode", ["host-passthrough", "host-model"])
def test_the_hosts_cpu_becomes_all_that_can_be_emulated(mode):
    own = f"<cpu mode='{mode}' migratable='on'><feature name='vmx' policy='require'/><cache mode='passthrough'/>"
    root = tree(ENGINE.replace('<cpu match="exact">\n    <model>Nehalem</model>', own), TCG)
    assert root.find("cpu").attrib == {"mode": "maximum", "check": "none"}
    assert [child.tag for child in root.find("cpu")] == ["topology", "numa"]


def test_an_emulated_vm_stays_emulated_where_kvm_works():
    assert tree(changed('type="kvm"', 'type="qemu"'), KVM).get("type") == "qemu"


# -- putting the images in


def test_images_are_put_in_place():
    prepared = domxml.place(prepare(), {"vda": Location("/images/real")})
    disk = ET.fromstring(prepared.xml).find("devices/disk[@device='disk']")
    assert disk.get("type") == "file"
    assert disk.find("source").attrib == {"file": "/images/real"}
    assert disk.find("source/seclabel") is not None
    assert prepared.facts.disks[1].path == "/images/real"
    assert prepared.facts.disks[1].image_id == DISK
    assert prepared.facts.owner == OWNER


def test_a_block_device_becomes_a_block_disk():
    prepared = domxml.place(prepare(), {"vda": Location("/dev/vg/lv", block=True)})
    disk = ET.fromstring(prepared.xml).find("devices/disk[@device='disk']")
    assert disk.get("type") == "block"
    assert disk.find("source").attrib == {"dev": "/dev/vg/lv"}


def test_a_kernel_is_put_in_place():
    xml = changed("</type>", "</type><kernel>/images/k</kernel><initrd>/images/i</initrd><cmdline>/x</cmdline>")
    prepared = prepare(xml)
    assert [(i.field, i.path, i.format) for i in prepared.images[:2]] == [
        ("xml.os.kernel", "/images/k", None),
        ("xml.os.initrd", "/images/i", None),
    ]
    placed = domxml.place(prepared, {"kernel": Location("/real/k"), "initrd": Location("/real/i")})
    root = ET.fromstring(placed.xml)
    assert (root.findtext("os/kernel"), root.findtext("os/initrd")) == ("/real/k", "/real/i")


# -- what is refused

BOMB = '<!DOCTYPE domain [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
HEAD = '<?xml version="1.0" encoding="UTF-8"?>'


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("", "well-formed"),
        ("   ", "well-formed"),
        ("<domain", "well-formed"),
        ("not xml", "well-formed"),
        ("<domain></vm>", "well-formed"),
        ("<domain>&undefined;</domain>", "well-formed"),
        ("<a:domain/>", "well-formed"),
        ("<domain>\0</domain>", "well-formed"),
        ("<domain>\ud800</domain>", "Unicode"),
        (ENGINE.replace(HEAD, HEAD + BOMB).replace("web-01", "&b;"), "no document type"),
        (ENGINE.replace(HEAD, HEAD + EXTERNAL).replace("web-01", "&x;"), "no document type"),
        (ENGINE.replace(HEAD, HEAD + "<!DOCTYPE domain>"), "no document type"),
        ("<domain>" + "<a>" * 100_000, "nested"),
        ("<domain>" + " " * 1024 * 1024 + "</domain>", "at most 1048576 bytes"),
        ("<domain>" + "ä" * 600_000 + "</domain>", "at most 1048576 bytes"),
        ("<vm/>", "must be a <domain>"),
        ('<domain xmlns="urn:x"/>', "must be a <domain>"),
    ],
)
def test_what_is_no_domain_is_refused(xml, words):
    error = refused(xml)
    assert error.field == "xml"
    assert words in error.reason


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('type="kvm"', 'type="xen"', "xml.domain@type"),
        ('type="kvm"', "", "xml.domain@type"),
        (f"<uuid>{VM}</uuid>", "", "xml.uuid"),
        (f"<uuid>{VM}</uuid>", "<uuid>nonsense</uuid>", "xml.uuid"),
        (f"<uuid>{VM}</uuid>", "<uuid>00000000-0000-0000-0000-000000000001</uuid>", "xml.uuid"),
        (f"<uuid>{VM}</uuid>", f"<uuid>{VM}</uuid><uuid>{VM}</uuid>", "xml.uuid"),
        ("<name>web-01</name>", "", "xml.name"),
        ("<name>web-01</name>", "<name/>", "xml.name"),
        ("web-01", "../../etc", "xml.name"),
        ("web-01", "a\nb", "xml.name"),
        ("web-01", "x" * 256, "xml.name"),
        ("<memory>262144</memory>", "", "xml.memory"),
        ("<memory>262144</memory>", "<memory>0</memory>", "xml.memory"),
        ("<memory>262144</memory>", "<memory>-1</memory>", "xml.memory"),
        ("<memory>262144</memory>", "<memory>1e9</memory>", "xml.memory"),
        ("<memory>262144</memory>", "<memory unit='GiB'>5</memory>", "xml.memory"),
        ("<memory>262144</memory>", "<memory unit='furlong'>5</memory>", "xml.memory"),
        ("<memory>262144</memory>", f"<memory>{'9' * 400}</memory>", "xml.memory"),
        ("<currentMemory>262144", "<currentMemory>262145", "xml.currentMemory"),
        ("<currentMemory>262144", "<currentMemory>0", "xml.currentMemory"),
        (">1048576</maxMemory>", ">1</maxMemory>", "xml.maxMemory"),
        (">16</vcpu>", ">0</vcpu>", "xml.vcpu"),
        (">16</vcpu>", ">65</vcpu>", "xml.vcpu"),
        (">16</vcpu>", ">many</vcpu>", "xml.vcpu"),
        ('<vcpu current="1">', '<vcpu current="17">', "xml.vcpu@current"),
        (">hvm</type>", ">exe</type>", "xml.os.type"),
        ('arch="x86_64"', 'arch="s390x"', "xml.os.type@arch"),
    ],
)
def test_a_vm_that_cannot_be_is_refused(old, new, field):
    assert refused(changed(old, new)).field == field


def test_a_domain_without_devices_is_refused():
    start, end = ENGINE.index("<devices>"), ENGINE.index("</devices>") + len("</devices>")
    assert refused(ENGINE[:start] + ENGINE[end:]).field == "xml.devices"


@settings(deadline=None)
@given(st.integers(0, len(ENGINE)), st.integers(0, 80), st.text(max_size=12))
def test_no_damage_makes_anything_but_a_clear_refusal(start, length, text):
    damaged = ENGINE[:start] + text + ENGINE[start + length :]
    outcome = outcome_of(damaged)
    if isinstance(outcome, BadParameter):
        assert outcome.field.startswith("xml")
    else:
        assert outcome.facts == domxml.describe(outcome.xml)


def outcome_of(xml: str) -> domxml.Prepared | BadParameter:
    try:
        return domxml.prepare(xml, VM, OWNER, TCG)
    except BadParameter as error:
        return error
