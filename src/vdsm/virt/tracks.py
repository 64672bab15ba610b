"""From counters to samples: rates need the counters before. Pure."""

from __future__ import annotations

from dataclasses import replace

from vdsm.system.libvirt.facts import CheapCounters, DiskCounters, MonitorCounters, NicCounters
from vdsm.system.qemu_process import ProcessFacts
from vdsm.virt.view import DiskSample, MemorySample, NicSample, VmSample

_NS = 1_000_000_000


class Track:
    """One VM's samples so far."""

    __slots__ = ("_cpu", "_cpu_s", "_disks_s", "sample")

    def __init__(self) -> None:
        self.sample: VmSample | None = None
        self._cpu: tuple[float, float] | None = None
        self._cpu_s = 0.0
        self._disks_s: float | None = None

    def cheap(self, now_s: float, counters: CheapCounters, process: ProcessFacts | None) -> VmSample:
        """The sample after the cheap counters of ``now_s``."""
        sample = replace(self.sample or VmSample(now_s), taken_s=now_s, nics=tuple(map(_nic, counters.nics)))
        if process is not None:
            sample = self._with_cpu(sample, now_s, process.user_s, process.system_s)
        self.sample = sample
        return sample

    def monitor(self, now_s: float, counters: MonitorCounters) -> VmSample:
        """The sample after what QEMU said at ``now_s``."""
        before = self.sample or VmSample(now_s)
        passed_s = 0.0 if self._disks_s is None else now_s - self._disks_s
        old = {disk.target: disk for disk in before.disks}
        sample = replace(
            before,
            monitor_taken_s=now_s,
            memory=_memory(counters),
            disks=tuple(_disk(disk, old.get(disk.name), passed_s) for disk in counters.disks),
        )
        if counters.cpu_user_ns is not None and counters.cpu_system_ns is not None:
            sample = self._with_cpu(sample, now_s, counters.cpu_user_ns / _NS, counters.cpu_system_ns / _NS)
        self._disks_s = now_s
        self.sample = sample
        return sample

    def _with_cpu(self, sample: VmSample, now_s: float, user_s: float, system_s: float) -> VmSample:
        passed_s = now_s - self._cpu_s
        if self._cpu is not None and passed_s > 0:
            sample = replace(
                sample,
                cpu_user_percent=max(0.0, 100 * (user_s - self._cpu[0]) / passed_s),
                cpu_system_percent=max(0.0, 100 * (system_s - self._cpu[1]) / passed_s),
            )
        self._cpu, self._cpu_s = (user_s, system_s), now_s
        return replace(sample, cpu_ns=int((user_s + system_s) * _NS))


def _nic(nic: NicCounters) -> NicSample:
    return NicSample(
        target=nic.name,
        rx_bytes=nic.rx_bytes,
        rx_packets=nic.rx_packets,
        rx_errors=nic.rx_errors,
        rx_dropped=nic.rx_dropped,
        tx_bytes=nic.tx_bytes,
        tx_packets=nic.tx_packets,
        tx_errors=nic.tx_errors,
        tx_dropped=nic.tx_dropped,
    )


def _memory(counters: MonitorCounters) -> MemorySample:
    get = counters.memory.get
    return MemorySample(
        balloon_current_kib=get("current", 0),
        balloon_maximum_kib=get("maximum", 0),
        rss_kib=get("rss"),
        available_kib=get("available"),
        unused_kib=get("unused"),
        usable_kib=get("usable"),
        cached_kib=get("disk_caches"),
    )


def _disk(now: DiskCounters, before: DiskSample | None, passed_s: float) -> DiskSample:
    sample = DiskSample(
        target=now.name,
        read_ops=now.read_ops,
        read_bytes=now.read_bytes,
        read_ns=now.read_ns,
        write_ops=now.write_ops,
        write_bytes=now.write_bytes,
        write_ns=now.write_ns,
        flush_ops=now.flush_ops,
        flush_ns=now.flush_ns,
        capacity=now.capacity,
        allocation=now.allocation,
        physical=now.physical,
    )
    if before is None or passed_s <= 0:
        return sample
    return replace(
        sample,
        read_rate=max(0.0, (now.read_bytes - before.read_bytes) / passed_s),
        write_rate=max(0.0, (now.write_bytes - before.write_bytes) / passed_s),
        read_latency_ns=_each(now.read_ns - before.read_ns, now.read_ops - before.read_ops),
        write_latency_ns=_each(now.write_ns - before.write_ns, now.write_ops - before.write_ops),
        flush_latency_ns=_each(now.flush_ns - before.flush_ns, now.flush_ops - before.flush_ops),
    )


def _each(total_ns: int, operations: int) -> int:
    return max(0, total_ns) // operations if operations > 0 else 0
