"""The contract's description of a VM and the domain's, into one another. Pure."""

from __future__ import annotations

from vdsm.api import vm_types as api
from vdsm.base.ids import VmId
from vdsm.virt.spec import BootSpec, DiskImage, DiskSpec, NicSpec, VmSpec


def spec_of(shape: api.VmShape, name: str, vm_id: VmId) -> VmSpec:
    """The domain's description of a VM."""
    return VmSpec(
        vm_id=vm_id,
        name=name,
        memory_mib=shape.memory_mib,
        vcpus=shape.vcpus,
        disks=tuple(
            DiskSpec(
                path=disk.path,
                format=disk.format,
                bus=disk.bus,
                device=disk.device,
                readonly=disk.readonly,
                serial=disk.serial,
                image=_image_spec(disk.image),
            )
            for disk in shape.disks
        ),
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
                bus=disk.bus,
                readonly=disk.readonly,
                serial=disk.serial,
                image=_image_description(disk.image),
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


def _image_spec(image: api.DiskImage | None) -> DiskImage | None:
    if image is None:
        return None
    return DiskImage(image.domain_id, image.image_id, image.volume_id, image.pool_id, image.lease)


def _image_description(image: DiskImage | None) -> api.DiskImage | None:
    if image is None:
        return None
    return api.DiskImage(
        domain_id=image.domain_id,
        image_id=image.image_id,
        volume_id=image.volume_id,
        pool_id=image.pool_id,
        lease=image.lease,
    )
