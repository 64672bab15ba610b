"""Metrics for Prometheus: what happened is counted where it happens, cheaply; everything is rendered when asked for.

The client library is imported at the first rendering, and has a registry of its own. VM and host figures come from
the last samples; nothing is asked of QEMU or libvirt.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vdsm.api.host_types import HostStats
from vdsm.api.vm_types import VmStats
from vdsm.base.clock import monotonic_s
from vdsm.base.threads import PoolStats
from vdsm.bindings.metric_families import Family, single
from vdsm.bindings.storage_metrics import StorageFigures, storage_families

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

log = logging.getLogger(__name__)

OK: Final = "ok"
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_KIB: Final = 1024
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class EventCounts:
    """How many events were published, and how many deliveries were dropped for a slow subscriber."""

    published: int
    dropped: int


def _nothing() -> tuple[()]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSources:
    """Where the figures come from; each call reads memory only and may be made from any thread."""

    vms: Callable[[], Sequence[VmStats]] = _nothing
    host: Callable[[], HostStats | None] = lambda: None
    pools: Callable[[], Iterable[PoolStats]] = _nothing
    connections: Callable[[], Mapping[str, int]] = dict
    """Open connections by kind."""
    events: Callable[[], EventCounts] = lambda: EventCounts(0, 0)
    libvirt_up: Callable[[], bool | None] = lambda: None
    abandoned: Callable[[], Mapping[str, int]] = dict
    """Calls and programs that were given up and may still hang, by kind."""
    storage: Callable[[], StorageFigures] = StorageFigures


class RequestTimes:
    """Counts requests by verb and outcome, and how long they took. To be told on the event loop."""

    __slots__ = ("_verbs",)

    def __init__(self) -> None:
        self._verbs: dict[str, _Times] = {}

    def observe(self, verb: str, outcome: str, seconds: float) -> None:
        """One request is done; ``outcome`` is "ok" or the error's stable name."""
        times = self._verbs.get(verb)
        if times is None:
            times = self._verbs[verb] = _Times()
        times.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        times.sum_s += seconds
        times.outcomes[outcome] = times.outcomes.get(outcome, 0) + 1

    def snapshot(self) -> list[tuple[str, _Times]]:
        """All verbs that were asked for."""
        return list(self._verbs.items())


@dataclass(slots=True)
class _Times:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    outcomes: dict[str, int] = field(default_factory=dict)
    sum_s: float = 0.0


class Metrics:
    """Renders everything."""

    def __init__(self, sources: MetricSources, requests: RequestTimes) -> None:
        self._sources = sources
        self._requests = requests
        self._registry: CollectorRegistry | None = None

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics as text, and its media type: what the Accept header prefers."""
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - few hosts are scraped: save memory

        encoder, media_type = choose_encoder(accept)
        if self._registry is None:
            self._registry = self._make_registry()
        return encoder(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """All figures but the process's own, for the registry."""
        yield from _requests(self._requests)
        yield from _agent(self._sources)
        vms = self._sources.vms()
        yield from _vms(vms)
        yield from _vm_devices(vms)
        host = self._sources.host()
        if host is not None:
            yield from _host(host)
        yield from storage_families(self._sources.storage(), host)

    def _make_registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415 - see render

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return registry


def _requests(requests: RequestTimes) -> Iterator[Metric]:
    from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415 - see Metrics.render

    seconds = HistogramMetricFamily("vdsm_request_seconds", "How long requests took.", labels=["verb"])
    done = Family("counter", "vdsm_requests", "Requests, by outcome.", ["verb", "outcome"])
    for verb, times in requests.snapshot():
        buckets, count = [], 0
        for bound, number in zip([*map(str, BUCKETS_S), "+Inf"], list(times.buckets), strict=True):
            count += number
            buckets.append((bound, count))
        seconds.add_metric([verb], buckets, times.sum_s)
        for outcome, number in list(times.outcomes.items()):
            done.add(number, verb, outcome)
    yield seconds
    yield done.metric


def _agent(sources: MetricSources) -> Iterator[Metric]:
    pools = list(sources.pools())
    gauges = {
        "workers": "Threads that a pool may have.",
        "threads": "Threads that a pool has.",
        "running": "Requests that a pool is serving.",
        "waiting": "Requests that wait for a pool.",
    }
    for what, text in gauges.items():
        family = Family("gauge", f"vdsm_pool_{what}", text, ["pool"])
        for pool in pools:
            family.add(getattr(pool, what), pool.name)
        yield family.metric
    oldest = Family("gauge", "vdsm_pool_oldest_seconds", "How long a pool's longest request has been at it.", ["pool"])
    refused = Family("counter", "vdsm_pool_refused", "Requests refused because a pool was full.", ["pool"])
    for pool in pools:
        oldest.add(pool.oldest_s, pool.name)
        refused.add(pool.refused, pool.name)
    yield oldest.metric
    yield refused.metric
    connections = Family("gauge", "vdsm_connections", "Open connections.", ["kind"])
    for kind, number in sources.connections().items():
        connections.add(number, kind)
    yield connections.metric
    events = sources.events()
    yield single("counter", "vdsm_events_published", "Events published.", events.published)
    yield single("counter", "vdsm_events_dropped", "Events not delivered to a slow subscriber.", events.dropped)
    up = sources.libvirt_up()
    if up is not None:
        yield single("gauge", "vdsm_libvirt_up", "1 while libvirt is connected and answers.", float(up))
    abandoned = Family("gauge", "vdsm_abandoned_calls", "Calls given up that may still hang.", ["kind"])
    for kind, number in sources.abandoned().items():
        abandoned.add(number, kind)
    yield abandoned.metric
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    yield single("gauge", "vdsm_process_threads", "Threads of the agent.", threads)


@dataclass(frozen=True, slots=True)
class _Figure:
    """One metric of each VM, disk or card: what it is called and how it is read."""

    kind: str
    name: str
    text: str
    read: Callable[[VmStats], float | None]


_VM_FIGURES: Final = (
    _Figure("gauge", "vdsm_vm_sample_age_seconds", "Age of the VM's last sample.", lambda vm: _age(vm.stats_age)),
    _Figure("gauge", "vdsm_vm_responding", "1 while the VM's QEMU answers.", lambda vm: float(vm.responding)),
    _Figure("gauge", "vdsm_vm_up", "1 while the VM is Up.", lambda vm: float(vm.status == "Up")),
    _Figure("gauge", "vdsm_vm_vcpus", "Virtual CPUs.", lambda vm: vm.vcpu_count),
    _Figure("counter", "vdsm_vm_cpu_seconds", "CPU time since the VM's start.", lambda vm: vm.cpu_usage / 1e9),
    _Figure("gauge", "vdsm_vm_cpu_user_percent", "Of one CPU, guest and QEMU.", lambda vm: vm.cpu_user),
    _Figure("gauge", "vdsm_vm_cpu_system_percent", "Of one CPU, the host's kernel.", lambda vm: vm.cpu_sys),
    _Figure("gauge", "vdsm_vm_memory_used_percent", "Memory that the guest uses.", lambda vm: vm.mem_usage),
    _Figure(
        "gauge",
        "vdsm_vm_balloon_bytes",
        "Memory that the balloon leaves to the guest.",
        lambda vm: vm.balloon_info.balloon_cur * _KIB if vm.balloon_info else None,
    ),
)
_DISK_COUNTERS: Final = {
    "read_bytes": ("read_bytes", "Bytes read."),
    "written_bytes": ("written_bytes", "Bytes written."),
    "read_operations": ("read_ops", "Reads."),
    "write_operations": ("write_ops", "Writes."),
}
_NIC_COUNTERS: Final = {
    "receive_bytes": ("rx", "Bytes received."),
    "transmit_bytes": ("tx", "Bytes sent."),
    "receive_errors": ("rx_errors", "Receive errors."),
    "transmit_errors": ("tx_errors", "Transmit errors."),
    "receive_dropped": ("rx_dropped", "Received packets dropped."),
    "transmit_dropped": ("tx_dropped", "Packets not sent."),
}


def _age(at_s: float) -> float:
    return round(max(0.0, monotonic_s() - at_s), 3)


def _vms(vms: Sequence[VmStats]) -> Iterator[Metric]:
    count = Family("gauge", "vdsm_vms", "VMs, by status.", ["status"])
    for status, number in Counter(vm.status for vm in vms).items():
        count.add(number, status)
    yield count.metric
    for figure in _VM_FIGURES:
        family = Family(figure.kind, figure.name, figure.text, ["vm_id", "name"])
        for vm in vms:
            value = figure.read(vm)
            if value is not None:
                family.add(value, vm.vm_id, vm.vm_name)
        yield family.metric


def _vm_devices(vms: Sequence[VmStats]) -> Iterator[Metric]:
    for what, (attribute, text) in _DISK_COUNTERS.items():
        family = Family("counter", f"vdsm_vm_disk_{what}", text, ["vm_id", "name", "disk"])
        for vm in vms:
            for disk, stats in vm.disks.items():
                family.add(getattr(stats, attribute), vm.vm_id, vm.vm_name, disk)
        yield family.metric
    for what, (attribute, text) in _NIC_COUNTERS.items():
        family = Family("counter", f"vdsm_vm_network_{what}", text, ["vm_id", "name", "device"])
        for vm in vms:
            for device, nic in vm.network.items():
                family.add(getattr(nic, attribute), vm.vm_id, vm.vm_name, device)
        yield family.metric


def _host(host: HostStats) -> Iterator[Metric]:
    singles = (
        ("vdsm_host_sample_age_seconds", "Age of the host's last sample.", _age(host.stats_age)),
        ("vdsm_host_load", "Load average of the last minute.", host.cpu_load),
        ("vdsm_host_memory_available_bytes", "Memory that can be given out.", host.mem_available * _MIB),
        ("vdsm_host_memory_used_percent", "Memory in use.", host.mem_used),
        ("vdsm_host_swap_total_bytes", "Swap space.", host.swap_total * _MIB),
        ("vdsm_host_swap_free_bytes", "Unused swap space.", host.swap_free * _MIB),
    )
    for name, text, value in singles:
        yield single("gauge", name, text, value)
    cpu = Family("gauge", "vdsm_host_cpu_percent", "CPU time of the host.", ["mode"])
    for mode, value in (("user", host.cpu_user), ("system", host.cpu_sys), ("idle", host.cpu_idle)):
        cpu.add(value, mode)
    yield cpu.metric
    for what, (attribute, text) in _NIC_COUNTERS.items():
        family = Family("counter", f"vdsm_host_network_{what}", text, ["device"])
        for device, stats in host.network.items():
            family.add(getattr(stats, attribute), device)
        yield family.metric
