"""What the agent knows of a domain from its XML: typed, frozen, small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vdsm.base.ids import VmId
from vdsm.virt.disks import ImageRef
from vdsm.virt.leases import LeaseRef

Origin = Literal["engine", "local"]


@dataclass(frozen=True, slots=True)
class Owner:
    """The mark in a domain's metadata that makes it ours.

    ``instance`` is the agent's own id (of its state directory), ``origin`` who sent the VM, ``created`` the
    wall time of its creation in ISO 8601 (UTC), to be shown.
    """

    instance: str
    origin: Origin = "engine"
    created: str = ""


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """One drive. ``path`` is "" without a medium; the ids are "" for disks outside of storage domains.

    ``kind`` is libvirt's type of the source: file, block, network ...; ``alias`` the device's name ("ua-..."
    when the manager gave it).
    """

    target: str
    bus: str
    device: str
    kind: str
    path: str
    format: str
    readonly: bool = False
    shareable: bool = False
    serial: str = ""
    alias: str = ""
    pool_id: str = ""
    domain_id: str = ""
    image_id: str = ""
    volume_id: str = ""
    guid: str = ""


@dataclass(frozen=True, slots=True)
class NicFacts:
    """One network card. ``target`` is the host's device ("vnet0"), "" before the start or in user mode.

    ``network`` is the manager's name of the network, or else the bridge; ``kind`` libvirt's type of it.
    """

    target: str
    mac: str
    model: str
    kind: str
    network: str
    bridge: str = ""
    link_up: bool = True
    alias: str = ""


@dataclass(frozen=True, slots=True)
class GraphicsFacts:
    """One display. Ports are None before the start and where there is none."""

    kind: str
    port: int | None
    tls_port: int | None
    address: str


@dataclass(frozen=True, slots=True)
class ConsoleFacts:
    """The serial console: ``kind`` is "unix" or "pty", ``path`` the socket or terminal ("" if none yet)."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """A domain. Memory in KiB as libvirt has it; ``devices_hash`` changes when devices or metadata do.

    ``owner`` is None when the domain is not marked as the agent's.
    """

    vm_id: VmId
    name: str
    domain_type: str
    machine: str
    cpu_model: str
    memory_kib: int
    current_memory_kib: int
    max_memory_kib: int
    min_memory_kib: int
    vcpus: int
    max_vcpus: int
    disks: tuple[DiskFacts, ...]
    nics: tuple[NicFacts, ...]
    graphics: tuple[GraphicsFacts, ...]
    console: ConsoleFacts | None
    agent_channel: bool
    balloon: bool
    acpi: bool
    clock_offset_s: int
    launch_paused: bool
    resume_behavior: str
    owner: Owner | None
    devices_hash: str

    @property
    def instance(self) -> str:
        """The agent instance that owns the domain, "" for a foreign domain."""
        return self.owner.instance if self.owner is not None else ""

    def disk(self, target: str) -> DiskFacts | None:
        """The drive of this device name."""
        return next((disk for disk in self.disks if disk.target == target), None)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked domain, ready for libvirt once its ``images`` and ``leases`` are put in place (``place``)."""

    vm_id: VmId
    name: str
    xml: str
    facts: DomainFacts
    images: tuple[ImageRef, ...]
    leases: tuple[LeaseRef, ...] = ()
