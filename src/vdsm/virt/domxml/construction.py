"""Building domain XML from a typed description: a plain, modern PC with virtio devices.

What is left out is libvirt's to choose (addresses, PCI controllers, ports). Nothing here looks at the host.
"""

from __future__ import annotations

import hashlib
import string
import xml.etree.ElementTree as ET
from typing import Final

from vdsm.base.ids import VmId
from vdsm.virt import spec as description
from vdsm.virt.disks import ImageRef
from vdsm.virt.domxml import adaptation, tree
from vdsm.virt.domxml import leases as lease_devices
from vdsm.virt.domxml.description import AGENT_CHANNEL
from vdsm.virt.leases import LeaseRef
from vdsm.virt.spec import DiskImage, DiskSpec, VmSpec
from vdsm.virt.traits import HostTraits

BALLOON_PERIOD_S: Final = 10
_PREFIX_OF_BUS: Final = {"virtio": "vd", "sata": "sd", "scsi": "sd", "ide": "hd", "fdc": "fd"}


def domain_xml(spec: VmSpec, traits: HostTraits) -> str:
    """The domain XML of a description.

    Raises:
        BadParameter: the description cannot be a VM on this host; names the description's field.
    """
    description.check(spec, traits.limits)
    root = ET.Element("domain", {"type": traits.domain_type})
    tree.add(root, "name", spec.name)
    tree.add(root, "uuid", spec.vm_id)
    _add_metadata(root, spec)
    tree.add(root, "memory", str(spec.memory_mib), unit="MiB")
    tree.add(root, "vcpu", str(spec.vcpus), placement="static")
    _add_system(root, spec)
    _add_cpu(root, spec, traits)
    _add_clock(root, traits)
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        tree.add(root, event, action)
    devices = tree.add(root, "devices")
    tree.add(devices, "emulator", traits.emulator)
    _add_disks(devices, spec)
    for ref in leases(spec):
        lease_devices.add(devices, ref.domain_id, ref.lease_id)
    _add_nics(devices, spec)
    _add_ports(devices, spec, traits)
    _add_display(devices, spec, traits)
    balloon = tree.add(devices, "memballoon", model="virtio")
    tree.add(balloon, "stats", period=str(BALLOON_PERIOD_S))
    rng = tree.add(devices, "rng", model="virtio")
    tree.add(rng, "backend", "/dev/urandom", model="random")
    return tree.to_text(root)


def targets(spec: VmSpec) -> tuple[str, ...]:
    """The device name of each drive of a description, in its order."""
    used: dict[str, int] = {}
    names = []
    for disk in spec.disks:
        prefix = _PREFIX_OF_BUS[disk.effective_bus]
        number = used.get(prefix, 0)
        used[prefix] = number + 1
        names.append(prefix + _letters(number))
    return tuple(names)


def images(spec: VmSpec) -> tuple[ImageRef, ...]:
    """All images of a description, named as it names them."""
    refs = [
        _image(f"disks[{index}]", disk, target, path)
        for index, (disk, target) in enumerate(zip(spec.disks, targets(spec), strict=True))
        if (path := _source(disk)) is not None
    ]
    for name, path in (("kernel", spec.boot.kernel), ("initrd", spec.boot.initrd)):
        if path is not None:
            refs.append(ImageRef(field=f"boot.{name}", target=name, path=path, format=None, readonly=True))
    return tuple(refs)


def leases(spec: VmSpec) -> tuple[LeaseRef, ...]:
    """The leases of volumes that a description asks for, named as it names them."""
    return tuple(
        LeaseRef(f"disks[{index}].image.lease", disk.image.domain_id, disk.image.volume_id, disk.image.image_id)
        for index, disk in enumerate(spec.disks)
        if disk.image is not None and disk.image.lease
    )


def _image(field: str, disk: DiskSpec, target: str, path: str) -> ImageRef:
    at = disk.image or DiskImage("", "", "", "")
    return ImageRef(
        field=f"{field}.path" if disk.image is None else f"{field}.image",
        target=target,
        path=path,
        format=disk.format,
        readonly=disk.readonly or disk.device == "cdrom",
        pool_id=at.pool_id,
        domain_id=at.domain_id,
        image_id=at.image_id,
        volume_id=at.volume_id,
    )


def _source(disk: DiskSpec) -> str | None:
    """Its path; for an image of a storage domain the name that an Engine gives it, until it is prepared."""
    if disk.image is None:
        return disk.path
    at = disk.image
    return f"/rhev/data-center/{at.pool_id}/{at.domain_id}/images/{at.image_id}/{at.volume_id}"


def mac_of(vm_id: VmId, index: int) -> str:
    """The address of a VM's network card when none is given: local, unicast and the same every time.

    The first byte is that of QEMU's own addresses; bridges take the lowest address of their ports, and host
    devices' addresses (fe:...) stay above.
    """
    digest = hashlib.blake2b(f"{vm_id}/{index}".encode(), digest_size=5).hexdigest()
    return ":".join(["52", *(digest[at : at + 2] for at in range(0, 10, 2))])


def _letters(number: int) -> str:
    """Drive letters: a to z, then aa, ab ..."""
    letters = string.ascii_lowercase
    return (_letters(number // 26 - 1) if number >= 26 else "") + letters[number % 26]


def _add_metadata(root: ET.Element, spec: VmSpec) -> None:
    vm = tree.add(tree.add(root, "metadata"), f"{{{tree.OVIRT_VM}}}vm")
    for name, kind, value in (
        ("minGuaranteedMemoryMb", "int", str(spec.memory_mib)),
        ("launchPaused", "bool", str(spec.launch_paused).lower()),
        ("resumeBehavior", "", "auto_resume"),
        ("ballooningEnabled", "bool", "true"),
    ):
        tree.add(vm, f"{{{tree.OVIRT_VM}}}{name}", value, **({"type": kind} if kind else {}))
    for disk, target in zip(spec.disks, targets(spec), strict=True):
        if disk.image is not None:
            device = tree.add(vm, f"{{{tree.OVIRT_VM}}}device", devtype="disk", name=target)
            for name, ident in (
                ("poolID", disk.image.pool_id),
                ("domainID", disk.image.domain_id),
                ("imageID", disk.image.image_id),
                ("volumeID", disk.image.volume_id),
            ):
                tree.add(device, f"{{{tree.OVIRT_VM}}}{name}", ident)


def _add_system(root: ET.Element, spec: VmSpec) -> None:
    system = tree.add(root, "os")
    tree.add(system, "type", "hvm", arch="x86_64", machine=spec.machine)
    for name, value in (
        ("kernel", spec.boot.kernel),
        ("initrd", spec.boot.initrd),
        ("cmdline", spec.boot.cmdline),
    ):
        if value is not None:
            tree.add(system, name, value)
    features = tree.add(root, "features")
    tree.add(features, "acpi")
    tree.add(features, "apic")


def _add_cpu(root: ET.Element, spec: VmSpec, traits: HostTraits) -> None:
    if spec.cpu_model is not None:
        # Under TCG libvirt would compare with the host's CPU, which does not run the guest there.
        cpu = tree.add(root, "cpu", mode="custom", match="exact", **_unchecked(traits))
        tree.add(cpu, "model", spec.cpu_model, fallback="forbid")
    elif traits.domain_type == "kvm":
        cpu = tree.add(root, "cpu", mode="host-passthrough", check="none")
    else:
        cpu = tree.add(root, "cpu", mode="maximum", check="none")
    # Desktop guests are licensed for few sockets, so all CPUs are cores of one.
    tree.add(cpu, "topology", sockets="1", cores=str(spec.vcpus), threads="1")


def _unchecked(traits: HostTraits) -> dict[str, str]:
    return {"check": "none"} if traits.domain_type == "qemu" else {}


def _add_clock(root: ET.Element, traits: HostTraits) -> None:
    clock = tree.add(root, "clock", offset="utc")
    if traits.domain_type == "kvm":
        tree.add(clock, "timer", name="rtc", tickpolicy="catchup")
        tree.add(clock, "timer", name="pit", tickpolicy="delay")
        # kvmclock is better; under TCG there is none, and the HPET is the next best.
        tree.add(clock, "timer", name="hpet", present="no")


def _add_disks(devices: ET.Element, spec: VmSpec) -> None:
    if any(disk.effective_bus == "scsi" for disk in spec.disks):
        tree.add(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    orders = _boot_orders(spec)
    for index, (disk, target) in enumerate(zip(spec.disks, targets(spec), strict=True)):
        element = _disk_element(disk, target)
        if order := orders.get(("disk", index)):
            tree.add(element, "boot", order=str(order))
        devices.append(element)


def _disk_element(disk: DiskSpec, target: str) -> ET.Element:
    element = ET.Element("disk", {"type": "file", "device": disk.device})
    readonly = disk.readonly or disk.device == "cdrom"
    driver = tree.add(element, "driver", name="qemu", type=disk.format)
    if disk.device == "disk" and not readonly:
        # A full file system pauses the VM instead of giving the guest an error that it cannot repair.
        driver.set("error_policy", "stop")
        driver.set("discard", "unmap")
    path = _source(disk)
    if path is not None:
        tree.add(element, "source", file=path)
    tree.add(element, "target", dev=target, bus=disk.effective_bus)
    if readonly:
        tree.add(element, "readonly")
    if disk.serial is not None:
        tree.add(element, "serial", disk.serial)
    return element


def _add_nics(devices: ET.Element, spec: VmSpec) -> None:
    orders = _boot_orders(spec)
    for index, nic in enumerate(spec.nics):
        element = tree.add(devices, "interface", type="user" if nic.network is None else "bridge")
        tree.add(element, "mac", address=(nic.mac or mac_of(spec.vm_id, index)).lower())
        if nic.network is not None:
            tree.add(element, "source", bridge=nic.network)
        tree.add(element, "model", type=nic.model)
        if order := orders.get(("nic", index)):
            tree.add(element, "boot", order=str(order))


def _boot_orders(spec: VmSpec) -> dict[tuple[str, int], int]:
    """Position in the boot order by device; empty when a kernel is given directly."""
    if spec.boot.kernel is not None:
        return {}
    wanted: list[tuple[str, int]] = []
    for kind in spec.boot.order:
        if kind == "network":
            wanted += [("nic", index) for index in range(len(spec.nics))]
        else:
            wanted += [("disk", index) for index, disk in enumerate(spec.disks) if disk.device == kind]
    return {device: number for number, device in enumerate(wanted, 1)}


def _add_ports(devices: ET.Element, spec: VmSpec, traits: HostTraits) -> None:
    if spec.console:
        serial = tree.add(devices, "serial", type="unix")
        tree.add(serial, "source", mode="bind", path=traits.console_socket(spec.vm_id))
        tree.add(serial, "log", file=traits.console_log(spec.vm_id), append="on")
        port = tree.add(serial, "target", type="isa-serial", port="0")
        tree.add(port, "model", name="isa-serial")
    if spec.agent_channel:
        channel = tree.add(devices, "channel", type="unix")
        tree.add(channel, "target", type="virtio", name=AGENT_CHANNEL)


def _add_display(devices: ET.Element, spec: VmSpec, traits: HostTraits) -> None:
    video = tree.add(devices, "video")
    if spec.graphics is None:
        tree.add(devices, "controller", type="usb", index="0", model="none")
        tree.add(video, "model", type="none")
        return
    tree.add(devices, "controller", type="usb", index="0", model="qemu-xhci")
    tree.add(devices, "input", type="tablet", bus="usb")
    graphics = tree.add(devices, "graphics", type=spec.graphics, port="-1", autoport="yes")
    adaptation.lock(graphics)
    tree.add(graphics, "listen", type="address", address=traits.display_address)
    tree.add(video, "model", type="vga", vram="16384")
