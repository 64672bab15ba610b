"""The contract's description of a VM and the domain's, into one another. Pure."""

from __future__ import annotations

from typing import Final

from vdsm.api import vm_types as api
from vdsm.base.errors import BadParameter
from vdsm.base.ids import VmId
from vdsm.virt.spec import BootSpec, DiskBus, DiskSpec, NicSpec, VmSpec

_DEFAULT_BUS: Final[dict[str, DiskBus]] = {"disk": "virtio", "cdrom": "sata", "floppy": "sata"}


def spec_of(shape: api.VmShape, name: str, vm_id: VmId) -> VmSpec:
    """The domain's description of a VM.

    Raises:
        BadParameter: names the field that does not fit the others.
    """
    return VmSpec(
        vm_id=vm_id,
        name=name,
        memory_mib=shape.memory_mib,
        vcpus=shape.vcpus,
        disks=tuple(_disk(index, disk, shape.machine) for index, disk in enumerate(shape.disks)),
        nics=tuple(
            NicSpec(network=nic.network, mac=nic.mac.lower() if nic.mac else None, model=nic.model)
            for nic in shape.nics
        ),
        boot=BootSpec(
            order=shape.boot.order, kernel=shape.boot.kernel, initrd=shape.boot.initrd, cmdline=shape.boot.cmdline
        ),
        graphics="vnc" if shape.graphics == "vnc" else None,
        console=shape.serial_console,
        agent_channel=shape.guest_agent,
        machine=shape.machine,
        cpu_model=shape.cpu_model,
    )


def _disk(index: int, disk: api.DiskDescription, machine: str) -> DiskSpec:
    bus: DiskBus = _DEFAULT_BUS[disk.device]
    if disk.device == "cdrom" and machine == "pc":
        bus = "scsi"
    if disk.bus == "fdc" and disk.device != "floppy":
        raise BadParameter(f"disks[{index}].bus", f"fdc is for floppies, this is a {disk.device}")
    if disk.device == "floppy" and disk.bus not in {None, "fdc"}:
        raise BadParameter(f"disks[{index}].bus", f"a floppy is on fdc, not on {disk.bus}")
    if disk.bus is not None and disk.bus != "fdc":
        bus = disk.bus
    return DiskSpec(
        path=disk.path,
        format=disk.format,
        bus=bus,
        device=disk.device,
        readonly=disk.readonly,
        serial=disk.serial,
    )


def description_of(spec: VmSpec) -> api.VmDescription:
    """The contract's description of a VM that this host remembers."""
    return api.VmDescription(
        name=spec.name,
        memory_mib=spec.memory_mib,
        vcpus=spec.vcpus,
        disks=tuple(
            api.DiskDescription(
                path=disk.path,
                format=disk.format,
                device=disk.device,
                bus=None if disk.device == "floppy" else disk.bus,
                readonly=disk.readonly,
                serial=disk.serial,
            )
            for disk in spec.disks
        ),
        nics=tuple(api.NicDescription(network=nic.network, mac=nic.mac, model=nic.model) for nic in spec.nics),
        boot=api.BootDescription(
            order=spec.boot.order, kernel=spec.boot.kernel, initrd=spec.boot.initrd, cmdline=spec.boot.cmdline
        ),
        graphics=spec.graphics or "none",
        serial_console=spec.console,
        guest_agent=spec.agent_channel,
        machine=spec.machine,
        cpu_model=spec.cpu_model,
    )
