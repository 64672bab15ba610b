"""What a typed description of a VM may say, and the words of the refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vdsm.base.errors import BadParameter
from vdsm.base.ids import VmId
from vdsm.virt.spec import BootSpec, DiskSpec, Limits, NicSpec, VmSpec, check

LIMITS = Limits(max_memory_mib=4096, max_vcpus=8)
GOOD = VmSpec(vm_id=VmId("6f6b9a1e-2c52-4d0c-9a71-0a3f5c1d2e4b"), name="web-01", memory_mib=256)

LARGEST = replace(
    GOOD,
    name="A" + "z" * 63,
    memory_mib=4096,
    vcpus=8,
    disks=(
        DiskSpec("/images/a b.qcow2", format="qcow2", serial="s.1_x-2"),
        DiskSpec("/images/b", bus="scsi"),
        DiskSpec(None, device="cdrom"),
        DiskSpec(None, device="floppy"),
        DiskSpec(None, device="floppy", bus="sata"),
    ),
    nics=(NicSpec(), NicSpec(network="br0.100", mac="52:54:00:AA:bb:cc", model="e1000")),
    boot=BootSpec(order=(), kernel="/k", initrd="/i", cmdline="console=ttyS0 'quoted' <&>"),
    cpu_model="Nehalem",
)


@pytest.mark.parametrize("spec", [GOOD, LARGEST, replace(GOOD, machine="pc", disks=(DiskSpec("/a", bus="ide"),))])
def test_a_sane_description_is_taken(spec):
    check(spec, LIMITS)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vm_id": "6f6b9a1e"}, "vm_id"),
        ({"name": ""}, "name"),
        ({"name": "-x"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "ä"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "6f6b9a1e-2c52-4d0c-9a71-0a3f5c1d2e4c"}, "name"),
        ({"memory_mib": 0}, "memory_mib"),
        ({"memory_mib": -1}, "memory_mib"),
        ({"memory_mib": 4097}, "memory_mib"),
        ({"memory_mib": 10**30}, "memory_mib"),
        ({"vcpus": 0}, "vcpus"),
        ({"vcpus": 9}, "vcpus"),
        ({"cpu_model": "a b"}, "cpu_model"),
        ({"disks": (DiskSpec("/a"),) * 65}, "disks"),
        ({"disks": (DiskSpec(None, device="floppy"),) * 3}, "disks"),
        ({"disks": (DiskSpec("/a"), DiskSpec(None))}, "disks[1].path"),
        ({"disks": (DiskSpec("a"),)}, "disks[0].path"),
        ({"disks": (DiskSpec("//a"),)}, "disks[0].path"),
        ({"disks": (DiskSpec("/a\0b"),)}, "disks[0].path"),
        ({"disks": (DiskSpec("/" + "a" * 4095),)}, "disks[0].path"),
        ({"disks": (DiskSpec("/a", serial="x" * 37),)}, "disks[0].serial"),
        ({"disks": (DiskSpec("/a", serial="a,b"),)}, "disks[0].serial"),
        ({"disks": (DiskSpec("/a", device="cdrom", bus="virtio"),)}, "disks[0].bus"),
        ({"disks": (DiskSpec("/a", bus="fdc"),)}, "disks[0].bus"),
        ({"disks": (DiskSpec("/a", bus="ide"),)}, "disks[0].bus"),
        ({"disks": (DiskSpec("/a", bus="sata", readonly=True),)}, "disks[0].readonly"),
        ({"nics": (NicSpec(),) * 33}, "nics"),
        ({"nics": (NicSpec(network=";drop"),)}, "nics[0].network"),
        ({"nics": (NicSpec(network="sixteen-letters!"),)}, "nics[0].network"),
        ({"nics": (NicSpec(mac="52:54:00"),)}, "nics[0].mac"),
        ({"nics": (NicSpec(mac="53:54:00:00:00:01"),)}, "nics[0].mac"),
        ({"nics": (NicSpec(mac="00:00:00:00:00:00"),)}, "nics[0].mac"),
        ({"nics": (NicSpec(mac="52:54:00:00:00:0a"), NicSpec(mac="52:54:00:00:00:0A"))}, "nics[0].mac"),
        ({"boot": BootSpec(order=("disk", "disk"))}, "boot.order"),
        ({"boot": BootSpec(initrd="/i")}, "boot.initrd"),
        ({"boot": BootSpec(cmdline="quiet")}, "boot.cmdline"),
        ({"boot": BootSpec(kernel="k")}, "boot.kernel"),
        ({"boot": BootSpec(kernel="/k", initrd="i")}, "boot.initrd"),
        ({"boot": BootSpec(kernel="/k", cmdline="x" * 2049)}, "boot.cmdline"),
        ({"boot": BootSpec(kernel="/k", cmdline="a\nb")}, "boot.cmdline"),
    ],
)
def test_a_bad_field_is_named(change, field):
    with pytest.raises(BadParameter) as caught:
        check(replace(GOOD, **change), LIMITS)
    assert caught.value.field == field
