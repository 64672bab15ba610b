"""Facts read from live XML, and when the hash of a VM's devices changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdsm.virt import domxml
from vdsm.virt.domxml import ConsoleFacts, GraphicsFacts, NicFacts

LIVE = (Path(__file__).parent.parent / "samples/live-vm.xml").read_text()


def changed(old: str, new: str) -> str:
    assert old in LIVE, old
    return LIVE.replace(old, new, 1)


def test_facts_of_a_running_vm():
    facts = domxml.describe(LIVE)
    assert (facts.name, facts.domain_type, facts.machine, facts.cpu_model) == (
        "web-01",
        "qemu",
        "pc-q35-7.2",
        "Nehalem",
    )
    assert (facts.memory_kib, facts.current_memory_kib, facts.max_memory_kib) == (262144, 262144, 1048576)
    assert (facts.vcpus, facts.max_vcpus) == (1, 16)
    assert facts.graphics == (GraphicsFacts(kind="vnc", port=5900, tls_port=None, address="127.0.0.1"),)
    assert facts.console == ConsoleFacts(kind="unix", path=f"/run/vdsm/console/{facts.vm_id}.sock")
    assert facts.nics == (
        NicFacts(
            target="vnet0",
            mac="56:6f:1a:2b:00:07",
            model="virtio",
            kind="bridge",
            network="ovirtmgmt",
            bridge="ovirtmgmt",
            alias="ua-7eafc041-2d91-4d2e-9c60-415b8d7f6e55",
        ),
    )
    disk = facts.disk("vda")
    assert disk is not None
    assert (disk.path, disk.format, disk.kind) == ("/var/lib/vdsm/images/web-01.qcow2", "qcow2", "file")
    assert disk.image_id == disk.serial == "2f60b9a4-58c1-4f61-8b37-cf1f4f7f0b88"
    assert facts.disk("vdb") is None
    assert facts.owner is not None
    assert facts.instance == facts.owner.instance == "3f0e"
    assert facts.owner.origin == "engine"


def test_a_foreign_domain_has_no_owner():
    start, end = LIVE.index("<metadata>"), LIVE.index("</metadata>") + len("</metadata>")
    facts = domxml.describe(LIVE[:start] + LIVE[end:])
    assert facts.owner is None
    assert facts.instance == ""
    assert facts.min_memory_kib == 0


def test_the_least_that_libvirt_could_say():
    facts = domxml.describe("<domain type='qemu'><name>a</name></domain>")
    assert (facts.vcpus, facts.memory_kib, facts.disks, facts.console) == (1, 0, (), None)


def test_what_is_no_xml_is_an_error_of_value():
    with pytest.raises(ValueError, match="not a domain"):
        domxml.describe("")


def test_clock_and_link():
    moved = changed("adjustment='0'", "adjustment='-7200'").replace("<link state='up'/>", "<link state='down'/>")
    facts = domxml.describe(moved)
    assert facts.clock_offset_s == -7200
    assert not facts.nics[0].link_up


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("state='disconnected'", "state='connected'"),
        ("passwdValidTo='1970-01-01T00:00:01'", "passwdValidTo='2026-01-01T00:00:01'"),
        ("type='vnc' port='5900'", "port='5900' type='vnc'"),
        ("<devices>", "<devices>\n\n   "),
        ("<currentMemory unit='KiB'>262144", "<currentMemory unit='KiB'>131072"),
        ("instance='3f0e'", "instance='3f0e' note='x'"),
        ("id='1'", "id='2'"),
    ],
)
def test_the_hash_stays_while_devices_do(old, new):
    assert domxml.describe(changed(old, new)).devices_hash == domxml.describe(LIVE).devices_hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bus='0x05' slot='0x00'", "bus='0x05' slot='0x01'"),
        ("web-01.qcow2", "web-02.qcow2"),
        ("<link state='up'/>", "<link state='down'/>"),
        ("<alias name='ua-6d9ebf30", "<alias name='ua-7d9ebf30"),
        ("<ovirt-vm:network>ovirtmgmt", "<ovirt-vm:network>display"),
        ("port='5900'", "port='5901'"),
    ],
)
def test_the_hash_changes_when_devices_or_metadata_do(old, new):
    assert domxml.describe(changed(old, new)).devices_hash != domxml.describe(LIVE).devices_hash


def test_the_hash_is_a_number_and_the_same_in_every_process():
    facts = domxml.describe(LIVE)
    assert facts.devices_hash == "-7137549282011253516"
    assert str(int(facts.devices_hash)) == facts.devices_hash
