"""The libvirt XML of the lab's guests: as small as it can be, TCG, serial console in a socket and a log file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import quoteattr

from vds_bootstrap.guest import Guest as Image

_XML: Final = """<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory}</memory><vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{image.kernel}</kernel><initrd>{image.initrd}</initrd><cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/><apic/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disks}
    <serial type='unix'>
      <source mode='bind' path='/run/lab/{name}.console'/>
      <log file='/var/log/libvirt/qemu/{name}.console' append='on'/>
    </serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'><stats period='2'/></memballoon>
    <audio id='1' type='none'/>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class Disk:
    """A disk in a file; ``path`` is the file's inside the host. Disks are vda, vdb ... in their order."""

    path: str
    format: str = "raw"
    cache: str = "none"
    error_policy: str = "enospace"


def domain(name: str, uuid: str, image: Image, disks: Sequence[Disk], *, memory: int, vcpus: int) -> str:
    """The XML of a guest; ``memory`` in MiB."""
    parts = [_disk(disk, f"vd{'abcdefgh'[index]}") for index, disk in enumerate(disks)]
    return _XML.format(
        name=name,
        uuid=uuid,
        image=image,
        disks="".join(parts),
        memory=memory,
        vcpus=vcpus,
        cmdline=image.cmdline_for(name),
    )


def _disk(disk: Disk, target: str) -> str:
    driver = f"<driver name='qemu' type='{disk.format}' cache='{disk.cache}' error_policy='{disk.error_policy}'/>"
    source = f"<source file={quoteattr(disk.path)}/><target dev='{target}' bus='virtio'/>"
    return f"<disk type='file' device='disk'>{driver}{source}</disk>"
