"""The sampler of the host: reads the kernel's counters every few seconds and keeps the last two readings.

    thread --sample()--> Counters (raw, one moment) --+
                         Counters of the time before --+--> HostStatistics --> current(): from memory, with its age

One sample costs well under 3 ms of CPU with a few devices. Taps (a VM's end of a link) are left out: they belong to
the VMs' statistics, and there may be hundreds.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import Final

from vdsm.base import threads
from vdsm.base.clock import monotonic_s, now_utc
from vdsm.base.errors import Unfinished
from vdsm.host import numa
from vdsm.host.filesystems import LocalDirectories
from vdsm.host.networks import is_nic_name
from vdsm.host.statistics import (
    AgentUse,
    CpuStatistics,
    CpuUse,
    DeviceStatistics,
    HostStatistics,
    HugePages,
    KsmStatistics,
    MemoryStatistics,
    NodeMemory,
    Reading,
)
from vdsm.system import procfs, sysfs
from vdsm.system.procfs import PAGE_BYTES, TICKS_PER_S, CpuTicks, NetCounters

log = logging.getLogger(__name__)

LOOK_AGAIN_S: Final = 60.0
"""Between two looks at what hardly ever changes: NUMA nodes, mounts, devices' addresses."""
_MIB: Final = 1024 * 1024
_NO_TICKS: Final = CpuTicks(0, 0, 0, 0)
_KSM: Final = "kernel/mm/ksm"


@dataclass(frozen=True, slots=True)
class Device:
    """What a network device is; it keeps being that while it exists."""

    mac: str
    tap: bool
    nic: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """The raw numbers of one moment, as far as the next moment needs them."""

    taken_s: float
    stat: procfs.Stat
    net: dict[str, NetCounters]
    ksmd_ticks: int
    agent_user_s: float
    agent_system_s: float


def cpu_use(before: CpuTicks, after: CpuTicks) -> CpuUse:
    """Shares of the time between two readings; time that the hypervisor beneath stole counts as system.

    A CPU that was off and on again, or has not ticked, is taken as idle.
    """
    total = after.total - before.total
    if total <= 0:
        return CpuUse(user=0.0, system=0.0, idle=100.0)
    user = _share(after.user - before.user, total)
    idle = _share(after.idle - before.idle, total)
    return CpuUse(user=user, system=max(0.0, 100.0 - user - idle), idle=idle)


def _share(part: int, total: int) -> float:
    # iowait may run backwards a little (proc(5))
    return min(max(100.0 * part / total, 0.0), 100.0)


def rate(before: int, after: int, seconds: float) -> float:
    """Growth per second; 0 where the counter began anew or no time has passed."""
    return (after - before) / seconds if seconds > 0 and after >= before else 0.0


class HostReader:
    """Reads one moment. For one thread."""

    def __init__(self, directories: tuple[str, ...]) -> None:
        self._directories = LocalDirectories(directories)
        self._devices: dict[str, Device] = {}
        self._node_of_cpu: dict[int, int] = {}
        self._nodes: tuple[int, ...] = (0,)
        self._ksmd: int | None = None
        self._looked_s: float | None = None

    def look_again(self, now_s: float) -> None:
        """Forget what was remembered, when that is a while ago."""
        if self._looked_s is not None and now_s - self._looked_s < LOOK_AGAIN_S:
            return
        self._looked_s = now_s
        nodes = numa.gather()
        self._node_of_cpu = numa.node_of_cpu(nodes)
        self._nodes = tuple(node.index for node in nodes)
        self._ksmd = procfs.kernel_thread("ksmd")
        self._directories.look_again()
        self._devices = {}

    def counters(self, now_s: float) -> Counters:
        """The counters whose growth matters."""
        times = os.times()
        return Counters(
            taken_s=now_s,
            stat=procfs.parse_stat(procfs.read("stat")),
            net=procfs.parse_net_dev(procfs.read("net/dev")),
            ksmd_ticks=self._ksmd_ticks(),
            agent_user_s=times.user,
            agent_system_s=times.system,
        )

    def statistics(self, before: Counters | None, now: Counters) -> HostStatistics:
        """Everything of one moment; without a moment before, shares are those since boot and rates are 0."""
        elapsed_s = now.taken_s - before.taken_s if before else 0.0
        memory = procfs.parse_meminfo(procfs.read("meminfo"))
        network = self._network(before.net if before else {}, now, elapsed_s)
        nics = [item for name, item in network.items() if self._devices[name].nic]
        return HostStatistics(
            taken_monotonic_s=now.taken_s,
            boot_time_s=now.stat.boot_time_s,
            cpu=cpu_use(before.stat.total if before else _NO_TICKS, now.stat.total),
            cpu_load=procfs.parse_load(procfs.read("loadavg")),
            cpus=self._cpus(before.stat.cpus if before else {}, now.stat.cpus),
            memory=memory_statistics(memory, sysfs.read_int(f"{_KSM}/pages_sharing") or 0),
            ksm=self._ksm(before, now, elapsed_s),
            thp_state=sysfs.thp_state(),
            network=network,
            rx_rate=sum(item.rx_rate for item in nics),
            tx_rate=sum(item.tx_rate for item in nics),
            disk_free_mib=self._directories.free_mib(),
            huge_pages={size: _huge_pages(size) for size in sysfs.huge_page_sizes()},
            numa_nodes=self._numa(memory),
            agent=_agent_use(before, now, elapsed_s),
        )

    def _ksmd_ticks(self) -> int:
        if self._ksmd is None:
            return 0
        try:
            return sum(procfs.parse_process_ticks(procfs.read(f"{self._ksmd}/stat")))
        except OSError:
            return 0

    def _cpus(self, before: dict[int, CpuTicks], now: dict[int, CpuTicks]) -> dict[int, CpuStatistics]:
        node_of = self._node_of_cpu
        return {
            cpu: CpuStatistics(node_of.get(cpu, 0), cpu_use(before.get(cpu, _NO_TICKS), ticks))
            for cpu, ticks in now.items()
        }

    def _ksm(self, before: Counters | None, now: Counters, elapsed_s: float) -> KsmStatistics:
        used_s = rate(before.ksmd_ticks if before else now.ksmd_ticks, now.ksmd_ticks, elapsed_s) / TICKS_PER_S
        return KsmStatistics(
            running=sysfs.read_int(f"{_KSM}/run") == 1,
            pages_to_scan=sysfs.read_int(f"{_KSM}/pages_to_scan") or 0,
            cpu_percent=round(100 * used_s),
            merge_across_nodes=sysfs.read_int(f"{_KSM}/merge_across_nodes") != 0,
        )

    def _device(self, name: str) -> Device:
        device = self._devices.get(name)
        if device is None:
            nic = sysfs.net_has_hardware(name) or is_nic_name(name)
            device = Device(mac=sysfs.net_mac(name), tap=sysfs.net_is_tap(name), nic=nic)
            self._devices[name] = device
        return device

    def _network(self, before: dict[str, NetCounters], now: Counters, elapsed_s: float) -> dict[str, DeviceStatistics]:
        for gone in self._devices.keys() - now.net.keys():
            del self._devices[gone]
        found = {}
        for name, counters in now.net.items():
            device = self._device(name)
            if not device.tap and name != "lo":
                last = before.get(name, counters)
                found[name] = DeviceStatistics(
                    name=name,
                    mac=device.mac,
                    up=sysfs.net_up(name),
                    speed_mbit=sysfs.net_speed_mbit(name),
                    rx_bytes=counters.rx_bytes,
                    tx_bytes=counters.tx_bytes,
                    rx_dropped=counters.rx_dropped,
                    tx_dropped=counters.tx_dropped,
                    rx_errors=counters.rx_errors,
                    tx_errors=counters.tx_errors,
                    rx_rate=rate(last.rx_bytes, counters.rx_bytes, elapsed_s),
                    tx_rate=rate(last.tx_bytes, counters.tx_bytes, elapsed_s),
                    sample_time_s=now.taken_s,
                )
        return found

    def _numa(self, machine: dict[bytes, int]) -> dict[int, NodeMemory]:
        if len(self._nodes) == 1:
            # see numa.gather: a single node's memory is the machine's
            node = self._nodes[0]
            return {node: node_memory(machine, machine[b"MemAvailable"], sysfs.HUGE_PAGES)}
        found = {}
        for node in self._nodes:
            memory = procfs.parse_meminfo(sysfs.node_meminfo(node))
            base = f"devices/system/node/node{node}/hugepages"
            found[node] = node_memory(memory, reclaimable_kib(memory), base)
        return found


def reclaimable_kib(memory: dict[bytes, int]) -> int:
    """What a node can give without swapping, in KiB: free, page cache without shared memory, slabs."""
    cache = max(memory.get(b"FilePages", 0) - memory.get(b"Shmem", 0), 0)
    return memory.get(b"MemFree", 0) + cache + memory.get(b"SReclaimable", 0)


def node_memory(memory: dict[bytes, int], free_kib: int, huge_pages: str) -> NodeMemory:
    """One node from its meminfo; ``huge_pages`` is its directory under /sys."""
    total = memory.get(b"MemTotal", 0)
    sizes = sysfs.huge_page_sizes(huge_pages)
    return NodeMemory(
        free_mib=free_kib // 1024,
        used_percent=round(100 * (total - free_kib) / total) if total else 0,
        huge_pages_free={size: sysfs.huge_page_count(size, "free_hugepages", huge_pages) for size in sizes},
    )


def memory_statistics(memory: dict[bytes, int], ksm_pages_sharing: int) -> MemoryStatistics:
    """The machine's memory from /proc/meminfo."""
    total, available = memory[b"MemTotal"], memory[b"MemAvailable"]
    return MemoryStatistics(
        total=total // 1024,
        free=available // 1024,
        shared=ksm_pages_sharing * PAGE_BYTES // _MIB,
        used_percent=round(100 * (total - available) / total),
        swap_total=memory.get(b"SwapTotal", 0) // 1024,
        swap_free=memory.get(b"SwapFree", 0) // 1024,
        anon_huge=memory.get(b"AnonHugePages", 0) // 1024,
        committed=memory.get(b"Committed_AS", 0) // 1024,
    )


def _huge_pages(size_kib: int) -> HugePages:
    def count(counter: str) -> int:
        return sysfs.huge_page_count(size_kib, counter)

    return HugePages(
        total=count("nr_hugepages"),
        free=count("free_hugepages"),
        reserved=count("resv_hugepages"),
        surplus=count("surplus_hugepages"),
        overcommit=count("nr_overcommit_hugepages"),
    )


def _agent_use(before: Counters | None, now: Counters, elapsed_s: float) -> AgentUse:
    user_s = now.agent_user_s - before.agent_user_s if before else 0.0
    system_s = now.agent_system_s - before.agent_system_s if before else 0.0
    return AgentUse(
        cpu_user_percent=100 * user_s / elapsed_s if elapsed_s > 0 else 0.0,
        cpu_system_percent=100 * system_s / elapsed_s if elapsed_s > 0 else 0.0,
        resident_kib=procfs.parse_resident_kib(procfs.read("self/statm")),
    )


class StatisticsSampler:
    """The last statistics, taken every few seconds by one background thread; whoever asks gets them from memory.

    A sample that fails or hangs leaves the last one in place; ``Reading.age_s`` tells.
    """

    def __init__(self, *, directories: tuple[str, ...], interval_s: float = 3.0) -> None:
        """``directories`` have their free space watched, those on local file systems. Nothing is read yet."""
        self._reader = HostReader(directories)
        self._interval_s = interval_s
        self._born_s = monotonic_s()
        self._lock = threading.Lock()
        self._last: tuple[Counters, HostStatistics] | None = None
        self._first = threading.Event()
        self._stopping = threading.Event()
        self._failing = False

    def start(self) -> None:
        """Begin sampling; the first sample is there a few milliseconds later."""
        threads.start("host-sampler", self._run)

    def stop(self) -> None:
        """End at the next turn; does not wait for it."""
        self._stopping.set()

    def sample(self) -> HostStatistics:
        """Take one sample now, in the caller's thread.

        Raises:
            OSError: a file that every kernel has cannot be read.
        """
        with self._lock:
            now_s = monotonic_s()
            self._reader.look_again(now_s)
            counters = self._reader.counters(now_s)
            statistics = self._reader.statistics(self._last[0] if self._last else None, counters)
            self._last = (counters, statistics)
        self._first.set()
        return statistics

    def current(self, *, timeout_s: float = 5.0) -> Reading:
        """The last statistics, at once; only before there are any it waits for the first.

        Raises:
            Unfinished: there are none within the time.
        """
        self._first.wait(timeout_s)
        if self._last is None:
            raise Unfinished("the first sample of the host", timeout_s)
        statistics = self._last[1]
        now_s = monotonic_s()
        return Reading(
            statistics=statistics,
            age_s=now_s - statistics.taken_monotonic_s,
            elapsed_s=now_s - self._born_s,
            date_time=now_utc().strftime("%Y-%m-%dT%H:%M:%S GMT"),
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.sample()
            except Exception as error:
                # the top of a thread: an odd file of an odd kernel must not end sampling
                if not self._failing:
                    log.exception("the host cannot be sampled: %s", type(error).__name__)
                self._failing = True
            else:
                self._failing = False
            self._stopping.wait(self._interval_s)
