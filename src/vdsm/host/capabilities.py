"""What this host is and can do: the answer behind Host.getCapabilities.

The facts here are plain values; the service layer gives them their wire names and historical JSON kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vdsm.host.cpu import CpuFacts
from vdsm.host.hardware import HbaInventory
from vdsm.host.networks import NetworkFacts
from vdsm.host.numa import NumaNode
from vdsm.host.packages import Package


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """From /etc/os-release."""

    name: str
    version: str
    release: str
    pretty_name: str


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """Kernel and operating system."""

    operating_system: OperatingSystem
    kernel_release: str
    kernel_args: str
    boot_id: str
    boot_time_s: int
    """Seconds since 1970."""
    memory_mib: int
    selinux_mode: int
    """1 enforcing, 0 permissive, -1 disabled or not there."""
    fips: bool
    kdump: int
    """1 a crash kernel is loaded, 0 none is, -1 this kernel does not say."""
    huge_page_sizes_kib: tuple[int, ...]
    kernel_features: Mapping[str, int]
    """IBRS, RETP, PTI: 1 when the kernel uses that mitigation."""
    vulnerabilities: Mapping[str, str]
    """The kernel's own words per CPU vulnerability."""
    auto_numa_balancing: int
    """0 off, 1 on, 2 not built in or a single node (it cannot do anything)."""
    nested: bool
    iommu: bool
    rng_sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AgentTraits:
    """What the agent itself can do and says of itself; constants of a release or from the configuration."""

    reserved_memory_mib: int = 321
    guest_overhead_mib: int = 65
    domain_versions: tuple[int, ...] = (0, 2, 3, 4, 5)
    backup: bool = False
    cold_backup: bool = False
    clear_bitmaps: bool = False
    cd_change_pdiv: bool = False
    vnc_encrypted: bool = False
    hosted_engine: bool = False
    ovn_configured: bool = False
    net_config_dirty: bool = False
    additional_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One complete set of facts."""

    taken_monotonic_s: float
    kvm: bool
    cluster_levels: tuple[str, ...]
    supported_engines: tuple[str, ...]
    software_version: str
    software_revision: str
    version_name: str
    emulated_machines: tuple[str, ...]
    packages: tuple[Package, ...]
    cpu: CpuFacts
    numa_nodes: tuple[NumaNode, ...]
    system: SystemFacts
    hba: HbaInventory
    network: NetworkFacts
    agent: AgentTraits
    supported_block_sizes: Mapping[str, tuple[int, ...]]
    """Storage type -> block sizes in bytes; 0 means that it is detected."""
    hooks: Mapping[str, Mapping[str, str]]
    """Hook point -> program -> checksum."""
    openstack_binding_host_ids: Mapping[str, str]
