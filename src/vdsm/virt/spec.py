"""The small typed description of a VM for people and scripts; ``domxml.build`` makes libvirt's XML from it.

Pure: nothing here looks at the host. ``check`` refuses what can be refused without looking: ranges, names,
contradictions. Whether a path exists and may be used is for ``disks.Images``.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from vdsm.base.errors import BadParameter
from vdsm.base.ids import VmId, parse_vm_id

DiskFormat = Literal["raw", "qcow2"]
DiskBus = Literal["virtio", "sata", "scsi", "ide", "fdc"]
DiskDevice = Literal["disk", "cdrom", "floppy"]
NicModel = Literal["virtio", "e1000", "e1000e", "rtl8139"]
BootDevice = Literal["disk", "cdrom", "network"]

# QEMU starts with less, but no guest that a person would run does (a tiny kernel of our own needs 48 MiB).
MIN_MEMORY_MIB: Final = 16
MAX_DISKS: Final = 64
MAX_NICS: Final = 32
MAX_SERIAL: Final = 36  # characters; what virtio-scsi shows of a serial, the other buses show less
MAX_CMDLINE: Final = 2048  # characters; the x86 Linux kernel's limit

# What each kind of drive can be connected to; the first is the default.
_BUSES: Final[dict[DiskDevice, tuple[DiskBus, ...]]] = {
    "disk": ("virtio", "scsi", "sata", "ide"),
    "cdrom": ("sata", "scsi", "ide"),
    "floppy": ("fdc",),
}

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A VM is asked for by its name or its id: a name that could be an id might be another VM's.
_ID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_STORAGE_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SERIAL: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_SERIAL}}}")
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_BRIDGE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # the kernel's length limit of a device name
_CPU_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class DiskImage:
    """The address of a volume in a storage domain: the top of the chain that a VM writes to.

    With ``lease`` the VM has the volume's lease, so that it does not run on two hosts.
    """

    domain_id: str
    image_id: str
    volume_id: str
    pool_id: str
    lease: bool = False


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One drive: a ``path`` or an ``image`` of a storage domain.

    Neither is a removable drive without a medium; ``bus`` None is the best for the device.
    """

    path: str | None
    format: DiskFormat = "raw"
    bus: DiskBus | None = None
    device: DiskDevice = "disk"
    readonly: bool = False
    serial: str | None = None
    image: DiskImage | None = None

    @property
    def effective_bus(self) -> DiskBus:
        """The bus that is used; there is only one for floppies."""
        if self.device == "floppy":
            return "fdc"
        return self.bus if self.bus is not None else _BUSES[self.device][0]


@dataclass(frozen=True, slots=True)
class NicSpec:
    """One network card. ``network`` is a bridge of the host; None is user-mode networking (NAT inside QEMU).

    ``mac`` None means one derived from the VM's id and the card's position, so it survives restarts.
    """

    network: str | None = None
    mac: str | None = None
    model: NicModel = "virtio"


@dataclass(frozen=True, slots=True)
class BootSpec:
    """What the VM starts from: devices in order, or a kernel given directly (``order`` is not used then)."""

    order: tuple[BootDevice, ...] = ("disk", "cdrom", "network")
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None


@dataclass(frozen=True, slots=True)
class VmSpec:
    """A whole VM."""

    vm_id: VmId
    name: str
    memory_mib: int
    vcpus: int = 1
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    boot: BootSpec = BootSpec()
    graphics: Literal["vnc"] | None = "vnc"
    console: bool = True
    agent_channel: bool = True
    machine: Literal["q35", "pc"] = "q35"
    cpu_model: str | None = None
    launch_paused: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest VM that the host takes."""

    max_memory_mib: int
    max_vcpus: int


def check(spec: VmSpec, limits: Limits) -> None:
    """Refuse a description that cannot be a VM.

    Raises:
        BadParameter: names the field in the description's own words, as in ``disks[0].path``.
    """
    parse_vm_id(spec.vm_id, "vm_id")
    check_name(spec.name)
    check_range("memory_mib", spec.memory_mib, MIN_MEMORY_MIB, limits.max_memory_mib)
    check_range("vcpus", spec.vcpus, 1, limits.max_vcpus)
    if spec.cpu_model is not None:
        _matches("cpu_model", spec.cpu_model, _CPU_MODEL, "must be a name of a CPU model")
    check_range("disks", len(spec.disks), 0, MAX_DISKS)
    for index, disk in enumerate(spec.disks):
        _check_disk(f"disks[{index}]", disk, spec.machine)
    if sum(disk.device == "floppy" for disk in spec.disks) > 2:
        raise BadParameter("disks", "must have at most 2 floppy drives")
    _check_nics(spec.nics)
    _check_boot(spec.boot)


def check_name(name: str, field: str = "name") -> None:
    """Refuse a VM name that is not 1 to 64 of ``A-Z a-z 0-9 . _ -``, the first a letter or a digit.

    Raises:
        BadParameter: names ``field``.
    """
    _matches(
        field,
        name,
        _NAME,
        "must be 1 to 64 of letters, digits, '.', '_', '-', starting with a letter or digit",
    )
    if _ID.fullmatch(name):
        raise BadParameter(field, "must not look like the id of a VM")


def check_range(field: str, value: int, low: int, high: int) -> None:
    """Refuse a number outside ``low`` to ``high``.

    Raises:
        BadParameter: names ``field``.
    """
    if not low <= value <= high:
        raise BadParameter(field, f"must be {low} to {high}, is {value}")


def _check_disk(field: str, disk: DiskSpec, machine: str) -> None:
    _check_source(field, disk)
    if disk.serial is not None:
        _matches(
            f"{field}.serial",
            disk.serial,
            _SERIAL,
            f"must be 1 to {MAX_SERIAL} of letters, digits, '.', '_', '-'",
        )
    if disk.effective_bus not in _BUSES[disk.device]:
        buses = " or ".join(bus for bus in _BUSES[disk.device] if bus != "ide")
        raise BadParameter(f"{field}.bus", f"must be {buses} for a {disk.device}, is {disk.bus}")
    if disk.readonly and disk.device == "disk" and disk.effective_bus in {"sata", "ide"}:
        # No such disk exists in hardware, and so QEMU has none.
        raise BadParameter(f"{field}.readonly", f"a disk on {disk.effective_bus} cannot be read-only")
    if disk.effective_bus == "ide" and machine != "pc":
        raise BadParameter(f"{field}.bus", f"ide does not exist in the machine {machine}")


def _check_source(field: str, disk: DiskSpec) -> None:
    if disk.image is not None:
        if disk.path is not None:
            raise BadParameter(f"{field}.path", "must not be given together with image")
        for name in ("domain_id", "image_id", "volume_id", "pool_id"):
            _matches(f"{field}.image.{name}", getattr(disk.image, name), _STORAGE_ID, "must be a lower-case UUID")
    elif disk.path is not None:
        check_path(f"{field}.path", disk.path)
    elif disk.device == "disk":
        raise BadParameter(f"{field}.path", "is missing, and so is image")


def _check_nics(nics: tuple[NicSpec, ...]) -> None:
    check_range("nics", len(nics), 0, MAX_NICS)
    for index, nic in enumerate(nics):
        if nic.network is not None:
            _matches(f"nics[{index}].network", nic.network, _BRIDGE, "must be the name of a bridge")
        if nic.mac is not None:
            _check_mac(f"nics[{index}].mac", nic.mac)
    counts = Counter(nic.mac.lower() for nic in nics if nic.mac is not None)
    for index, nic in enumerate(nics):
        if nic.mac is not None and counts[nic.mac.lower()] > 1:
            raise BadParameter(f"nics[{index}].mac", f"{nic.mac} is given twice")


def _check_mac(field: str, mac: str) -> None:
    _matches(field, mac.lower(), _MAC, "must be six hexadecimal bytes with colons between")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise BadParameter(field, f"must be the address of one card (unicast), is {mac}")


def _check_boot(boot: BootSpec) -> None:
    if len(set(boot.order)) != len(boot.order):
        raise BadParameter("boot.order", "names a device twice")
    if boot.kernel is None:
        for field, value in (("boot.initrd", boot.initrd), ("boot.cmdline", boot.cmdline)):
            if value is not None:
                raise BadParameter(field, "needs boot.kernel")
        return
    check_path("boot.kernel", boot.kernel)
    if boot.initrd is not None:
        check_path("boot.initrd", boot.initrd)
    if boot.cmdline is not None:
        if len(boot.cmdline) > MAX_CMDLINE:
            raise BadParameter("boot.cmdline", f"must be at most {MAX_CMDLINE} characters")
        if not boot.cmdline.isprintable():
            raise BadParameter("boot.cmdline", "must be printable characters on one line")


def check_path(field: str, path: str) -> None:
    """Refuse what cannot be an absolute path of a file in XML.

    Raises:
        BadParameter: names ``field``.
    """
    if not path.startswith("/") or path.startswith("//"):
        raise BadParameter(field, f"must be an absolute path, is {path!r:.80}")
    if len(path) > 4095 or not path.isprintable():
        raise BadParameter(field, "must be a printable path of at most 4095 characters")


def _matches(field: str, value: str, pattern: re.Pattern[str], reason: str) -> None:
    if not pattern.fullmatch(value):
        raise BadParameter(field, f"{reason}, is {value!r:.80}")
