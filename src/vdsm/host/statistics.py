"""How the host is doing: the answer behind Host.getStats, from the last two samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CpuUse:
    """Shares of one CPU's (or all CPUs') time between two samples, in percent; they sum up to 100."""

    user: float
    system: float
    idle: float


@dataclass(frozen=True, slots=True)
class CpuStatistics:
    """One logical CPU."""

    node_index: int
    use: CpuUse


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """One network device. Counters count from the device's creation; rates are bytes per second."""

    name: str
    mac: str
    up: bool
    speed_mbit: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int
    rx_rate: float
    tx_rate: float
    sample_time_s: float
    """Monotonic instant of the counters."""


@dataclass(frozen=True, slots=True)
class HugePages:
    """Huge pages of one size, in pages."""

    total: int
    free: int
    reserved: int
    surplus: int
    overcommit: int


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """MiB unless said otherwise."""

    total: int
    free: int
    """What new processes can get without swapping."""
    shared: int
    """Saved by KSM."""
    used_percent: int
    swap_total: int
    swap_free: int
    anon_huge: int
    """Anonymous memory in transparent huge pages."""
    committed: int


@dataclass(frozen=True, slots=True)
class KsmStatistics:
    """The kernel's page merging."""

    running: bool
    pages_to_scan: int
    cpu_percent: int
    """Of one CPU, used by ksmd."""
    merge_across_nodes: bool


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """Memory of one NUMA node."""

    free_mib: int
    used_percent: int
    huge_pages_free: Mapping[int, int]
    """Page size in KiB -> free pages."""


@dataclass(frozen=True, slots=True)
class AgentUse:
    """What the agent itself uses."""

    cpu_user_percent: float
    cpu_system_percent: float
    resident_kib: int


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """The facts of one moment; rates and shares are over the time since the sample before."""

    taken_monotonic_s: float
    boot_time_s: int
    cpu: CpuUse
    cpu_load: float
    cpus: Mapping[int, CpuStatistics]
    memory: MemoryStatistics
    ksm: KsmStatistics
    thp_state: str
    """always, madvise or never."""
    network: Mapping[str, DeviceStatistics]
    rx_rate: float
    """Bytes per second over all NICs."""
    tx_rate: float
    disk_free_mib: Mapping[str, int]
    huge_pages: Mapping[int, HugePages]
    """By page size in KiB."""
    numa_nodes: Mapping[int, NodeMemory]
    agent: AgentUse


@dataclass(frozen=True, slots=True)
class Reading:
    """The last statistics and what belongs to the moment of asking."""

    statistics: HostStatistics
    age_s: float
    elapsed_s: float
    """Since the agent was started."""
    date_time: str
    """Now, GMT: "2026-01-31T12:00:00 GMT"."""
