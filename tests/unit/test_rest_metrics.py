"""Metrics, read back by the client library's own parser."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_parse
from prometheus_client.parser import text_string_to_metric_families as parse

from vdsm.api.host_types import StorageDomainHealth
from vdsm.api.vm_types import BalloonInfo, DiskStats, NicStats, VmStats
from vdsm.base.clock import monotonic_s
from vdsm.base.threads import PoolStats
from vdsm.bindings.metrics import BUCKETS_S, EventCounts, Metrics, MetricSources, RequestTimes
from vdsm.bindings.storage_metrics import StorageFigures, storage_families
from vdsm.storage.oop.supervisor import HelperStats

NIC = NicStats(
    name="vnet0", mac_addr="52:54:00:00:00:01", rx=11, tx=12, rx_errors=13, tx_errors=14, rx_dropped=15, tx_dropped=16,
    speed=1000, state="up", sample_time=1.0,
)  # fmt: skip


def vm(name: str, status: str = "Up", **more) -> VmStats:
    return VmStats(
        vm_id=f"id-{name}", vm_name=name, status=status, status_time=1, hash="h", stats_age=monotonic_s(), **more
    )


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    text, media_type = metrics.render()
    assert media_type.startswith("text/plain")
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_outcome_and_time():
    times = RequestTimes()
    times.observe("VM.create", "ok", 0.004)
    times.observe("VM.create", "busy", 0.0001)
    times.observe("VM.create", "ok", 1000.0)
    found = samples(Metrics(MetricSources(), times))
    assert found["vdsm_requests_total", "outcome=ok", "verb=VM.create"] == 2
    assert found["vdsm_requests_total", "outcome=busy", "verb=VM.create"] == 1
    assert found["vdsm_request_seconds_count", "verb=VM.create"] == 3
    assert found["vdsm_request_seconds_sum", "verb=VM.create"] == 1000.0041
    assert found["vdsm_request_seconds_bucket", "le=0.001", "verb=VM.create"] == 1
    assert found["vdsm_request_seconds_bucket", "le=0.005", "verb=VM.create"] == 2
    assert found["vdsm_request_seconds_bucket", f"le={BUCKETS_S[-1]}", "verb=VM.create"] == 2
    assert found["vdsm_request_seconds_bucket", "le=+Inf", "verb=VM.create"] == 3


def test_a_time_on_a_bound_belongs_below_it():
    times = RequestTimes()
    times.observe("V.v", "ok", BUCKETS_S[2])
    found = samples(Metrics(MetricSources(), times))
    assert found["vdsm_request_seconds_bucket", f"le={BUCKETS_S[1]}", "verb=V.v"] == 0
    assert found["vdsm_request_seconds_bucket", f"le={BUCKETS_S[2]}", "verb=V.v"] == 1


def test_the_agent():
    pool = PoolStats("query", workers=4, threads=3, running=2, waiting=1, done=9, refused=5, oldest_s=2.5)
    sources = MetricSources(
        pools=lambda: [pool],
        connections=lambda: {"http": 2, "stomp": 1},
        events=lambda: EventCounts(7, 3),
        libvirt_up=lambda: False,
        abandoned=lambda: {"program": 1},
    )
    found = samples(Metrics(sources, RequestTimes()))
    assert found["vdsm_pool_workers", "pool=query"] == 4
    assert found["vdsm_pool_threads", "pool=query"] == 3
    assert found["vdsm_pool_running", "pool=query"] == 2
    assert found["vdsm_pool_waiting", "pool=query"] == 1
    assert found["vdsm_pool_refused_total", "pool=query"] == 5
    assert found["vdsm_pool_oldest_seconds", "pool=query"] == 2.5
    assert found["vdsm_connections", "kind=http"] == 2
    assert found[("vdsm_events_published_total",)] == 7
    assert found[("vdsm_events_dropped_total",)] == 3
    assert found[("vdsm_libvirt_up",)] == 0
    assert found["vdsm_abandoned_calls", "kind=program"] == 1
    assert found[("vdsm_process_threads",)] >= 1
    assert found[("process_open_fds",)] > 0
    assert found[("process_resident_memory_bytes",)] > 1 << 20


def test_vms():
    balloon = BalloonInfo(balloon_max=4, balloon_min=1, balloon_cur=2, balloon_target=2)
    disk = DiskStats(read_bytes=1, written_bytes=2, read_ops=3, write_ops=4)
    rich = vm(
        "a", cpu_usage=2_500_000_000, cpu_user=12.5, balloon_info=balloon, disks={"vda": disk}, network={"vnet0": NIC}
    )
    quiet = vm("b", "Paused", responding=False)
    found = samples(Metrics(MetricSources(vms=lambda: [rich, quiet, vm("c")]), RequestTimes()))
    a, b = ("name=a", "vm_id=id-a"), ("name=b", "vm_id=id-b")
    assert found["vdsm_vms", "status=Up"] == 2
    assert found["vdsm_vms", "status=Paused"] == 1
    assert found["vdsm_vm_cpu_seconds_total", *a] == 2.5
    assert found["vdsm_vm_cpu_user_percent", *a] == 12.5
    assert found["vdsm_vm_balloon_bytes", *a] == 2048
    assert ("vdsm_vm_balloon_bytes", *b) not in found
    assert (found["vdsm_vm_up", *a], found["vdsm_vm_up", *b]) == (1, 0)
    assert (found["vdsm_vm_responding", *a], found["vdsm_vm_responding", *b]) == (1, 0)
    assert found["vdsm_vm_sample_age_seconds", *a] >= 0
    assert found["vdsm_vm_disk_written_bytes_total", "disk=vda", *a] == 2
    assert found["vdsm_vm_disk_read_operations_total", "disk=vda", *a] == 3
    assert found["vdsm_vm_network_receive_bytes_total", "device=vnet0", *a] == 11
    assert found["vdsm_vm_network_transmit_dropped_total", "device=vnet0", *a] == 16


def test_names_are_escaped():
    odd = 'x"\\\n}'
    found = samples(Metrics(MetricSources(vms=lambda: [vm(odd)]), RequestTimes()))
    assert found["vdsm_vm_up", f"name={odd}", f"vm_id=id-{odd}"] == 1


def test_two_of_them_do_not_mix():
    first, second = (
        Metrics(MetricSources(), RequestTimes()),
        Metrics(MetricSources(vms=lambda: [vm("x")]), RequestTimes()),
    )
    second.render()
    assert not any(name.startswith("vdsm_vm_") for name, *_ in samples(first))


def test_open_metrics_when_asked_for():
    times = RequestTimes()
    times.observe("V.v", "ok", 0.1)
    text, media_type = Metrics(MetricSources(vms=lambda: [vm("x")]), times).render("application/openmetrics-text")
    assert media_type.startswith("application/openmetrics-text")
    assert {family.name for family in open_parse(text.decode())} >= {"vdsm_requests", "vdsm_vms"}


def test_storage():
    health = StorageDomainHealth(
        code=0, last_check=2.5, delay=0.001, valid=True, version=5, acquired=False, actual=True
    )
    helper = HelperStats(
        domain="/mnt/a", pid=7, in_flight=1, calls=10, late=2, refused=3, started=4, abandoned=1, not_responding_s=None
    )
    figures = StorageFigures([helper], {("tasks", "running"): 2}, {"pool x": 1})
    host = SimpleNamespace(storage_domains={"d": health})
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in storage_families(figures, host)
        for sample in family.samples
    }
    assert found["vdsm_storage_helper_in_flight", "/mnt/a"] == 1
    assert found["vdsm_storage_helper_late_total", "/mnt/a"] == 2
    assert found["vdsm_storage_helper_abandoned", "/mnt/a"] == 1
    assert found["vdsm_operations", "tasks", "running"] == 2
    assert found["vdsm_storage_requests", "pool x"] == 1
    assert found["vdsm_storage_domain_valid", "d"] == 1
    assert found["vdsm_storage_domain_acquired", "d"] == 0
    assert found["vdsm_storage_domain_check_age_seconds", "d"] == 2.5
