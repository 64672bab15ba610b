"""The small parts of the fleet: strands, rates, responsiveness, records, what guests say, QEMU processes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.base.errors import Busy, Failed
from vdsm.base.ids import new_vm_id
from vdsm.base.threads import Pool
from vdsm.system.libvirt.facts import CheapCounters, DiskCounters, GuestReply, MonitorCounters, NicCounters
from vdsm.system.qemu_process import Processes, ProcessFacts, find, parse
from vdsm.virt import guests
from vdsm.virt.alarms import Alarms
from vdsm.virt.health import Cause, Responsiveness
from vdsm.virt.records import Record, Records
from vdsm.virt.strand import MAX_NEWS, Strand
from vdsm.virt.tracks import Track
from vdsm.virt.view import Exit, ExitCode, ExitReason, pack, unpack

# -- strands


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("strands", 4, 64)
    yield pool
    pool.stop(1.0)


class Gate:
    """An entry that keeps its strand until it is opened."""

    def __init__(self, strand: Strand) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        strand.ask(self._wait)
        assert self.entered.wait(10)

    def _wait(self) -> None:
        self.entered.set()
        assert self.open.wait(10)


def test_strand_runs_one_at_a_time_in_order(pool: Pool) -> None:
    strand = Strand(pool, "s")
    seen: list[int] = []
    inside = threading.Lock()

    def enter(number: int) -> None:
        assert inside.acquire(blocking=False)
        seen.append(number)
        inside.release()

    gate = Gate(strand)
    for number in range(200):
        assert strand.tell(enter, number)
    last = threading.Event()
    assert strand.tell(last.set)
    gate.open.set()
    assert last.wait(10)
    assert seen == list(range(200))


def test_strands_do_not_wait_for_one_another(pool: Pool) -> None:
    gate = Gate(Strand(pool, "busy"))
    assert Strand(pool, "free").ask(lambda: 7).result(10) == 7
    gate.open.set()


def test_urgent_entry_overtakes(pool: Pool) -> None:
    strand = Strand(pool, "s")
    gate = Gate(strand)
    order: list[str] = []
    last = strand.ask(order.append, "asked")
    strand.urge(order.append, "urged")
    gate.open.set()
    last.result(10)
    assert order == ["urged", "asked"]


def test_full_inbox_refuses_requests_and_drops_news(pool: Pool) -> None:
    strand = Strand(pool, "s", limit=3)
    gate = Gate(strand)
    for _ in range(3):
        strand.ask(lambda: None)
    with pytest.raises(Busy):
        strand.ask(lambda: None)
    strand.urge(lambda: None)
    while strand.tell(lambda: None):
        pass
    gate.open.set()
    assert MAX_NEWS >= 3


def test_full_pool_refuses_requests_and_keeps_news_for_a_nudge() -> None:
    pool = Pool("tiny", 1, 0)
    gate = Gate(Strand(pool, "other"))
    strand = Strand(pool, "s")
    with pytest.raises(Busy):
        strand.ask(lambda: None)
    told = threading.Event()
    assert strand.tell(told.set)
    gate.open.set()
    while not told.wait(0.01):
        strand.nudge()
    pool.stop(1.0)


def test_request_that_nobody_waits_for_any_more_is_not_run(pool: Pool) -> None:
    strand = Strand(pool, "s")
    gate = Gate(strand)
    ran = threading.Event()
    waiting = strand.ask(ran.set)
    assert waiting.cancel()
    gate.open.set()
    strand.ask(lambda: None).result(10)
    assert not ran.is_set()


def test_news_that_raise_do_not_end_the_strand(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    strand = Strand(pool, "s")

    def fail() -> None:
        raise RuntimeError("news")

    strand.tell(fail)
    assert strand.ask(lambda: 1).result(10) == 1
    with pytest.raises(RuntimeError):
        strand.ask(fail).result(10)
    assert "news were not understood" in caplog.text


def test_alarms_ring_once_and_can_set_themselves_again() -> None:
    alarms = Alarms()
    rung: list[str] = []

    def again() -> None:
        rung.append("again")
        alarms.set("again", 3600, again)

    alarms.set("again", 0, again)
    alarms.set("later", 3600, lambda: rung.append("later"))
    alarms.set("dropped", 0, lambda: rung.append("dropped"))
    alarms.drop("dropped")
    alarms.ring()
    alarms.ring()
    assert rung == ["again"]


# -- rates


def process(user_s: float, system_s: float) -> ProcessFacts:
    return ProcessFacts(pid=1, state="S", user_s=user_s, system_s=system_s, started_s=1.0, rss=0)


def test_cpu_is_percent_of_one_cpu_since_the_sample_before() -> None:
    track = Track()
    assert track.cheap(100.0, CheapCounters(None), process(1.0, 0.5)).cpu_user_percent == 0
    sample = track.cheap(110.0, CheapCounters(None), process(6.0, 1.5))
    assert (sample.cpu_user_percent, sample.cpu_system_percent) == (50.0, 10.0)
    assert sample.cpu_ns == 7_500_000_000
    assert sample.taken_s == 110.0


def test_cpu_from_qemu_where_proc_does_not_tell() -> None:
    track = Track()
    track.monitor(100.0, MonitorCounters({}, cpu_user_ns=10**9, cpu_system_ns=0))
    sample = track.monitor(110.0, MonitorCounters({}, cpu_user_ns=3 * 10**9, cpu_system_ns=10**9))
    assert (sample.cpu_user_percent, sample.cpu_system_percent) == (20.0, 10.0)


def test_disk_rates_and_latencies() -> None:
    track = Track()
    track.monitor(100.0, MonitorCounters({}, (DiskCounters("vda", read_ops=10, read_bytes=1000, read_ns=5000),)))
    later = DiskCounters("vda", read_ops=30, read_bytes=21000, read_ns=45000, write_ops=0, write_ns=9)
    (disk,) = track.monitor(110.0, MonitorCounters({}, (later,))).disks
    assert disk.read_rate == 2000.0
    assert disk.read_latency_ns == 2000
    assert disk.write_latency_ns == 0


def test_restarted_counters_give_no_negative_rates() -> None:
    track = Track()
    track.monitor(100.0, MonitorCounters({}, (DiskCounters("vda", read_ops=10, read_bytes=1000, read_ns=5000),)))
    (disk,) = track.monitor(110.0, MonitorCounters({}, (DiskCounters("vda"),))).disks
    assert (disk.read_rate, disk.read_latency_ns) == (0.0, 0)
    track.cheap(100.0, CheapCounters(None), process(9.0, 9.0))
    assert track.cheap(110.0, CheapCounters(None), process(1.0, 1.0)).cpu_user_percent == 0


def test_cheap_sample_keeps_what_qemu_said() -> None:
    track = Track()
    track.monitor(100.0, MonitorCounters({"current": 1024, "maximum": 2048, "available": 1000, "usable": 250}))
    sample = track.cheap(103.0, CheapCounters(None, (NicCounters("vnet0", rx_bytes=5),)), None)
    assert sample.memory is not None
    assert sample.memory.balloon_maximum_kib == 2048
    assert sample.memory_used_percent == 75
    assert (sample.taken_s, sample.monitor_taken_s) == (103.0, 100.0)
    assert sample.nics[0].rx_bytes == 5


# -- responsiveness


def test_vm_responds_when_the_last_reason_is_gone() -> None:
    told: list[tuple[str, bool]] = []
    health = Responsiveness(lambda vm_id, since_s: told.append((vm_id, since_s is None)))
    health.stopped(["a"])
    health.blame("a", Cause.STUCK)
    health.stopped([])
    assert health.quarantined() == {"a"}
    health.clear("a", Cause.STUCK)
    health.clear("a", Cause.STUCK)
    assert told == [("a", False), ("a", True)]
    assert health.quarantined() == frozenset()


def test_held_vm_is_still_asked() -> None:
    health = Responsiveness(lambda _vm_id, _since_s: None)
    health.blame("a", Cause.HELD)
    assert health.quarantined() == frozenset()
    health.blame("b", Cause.STOPPED)
    health.keep(["a"])
    assert health.quarantined() == frozenset()


# -- records


def test_records_survive(tmp_path: Path) -> None:
    path = tmp_path / "vms.sqlite"
    ended, alive, forgotten = (
        Record(new_vm_id(), name, "boot", 12.5, pack("<domain/>")) for name in ("ended", "alive", "forgotten")
    )
    how = Exit(ExitCode.ERROR, ExitReason.LOST_QEMU, "gone")
    first = Records(path)
    for record in (ended, alive, forgotten):
        first.put(record)
    first.end(ended.vm_id, how)
    first.forget(forgotten.vm_id)
    second = Records(path)  # the first one is not closed: as after kill -9
    found = {record.name: record for record in second.all()}
    assert set(found) == {"ended", "alive"}
    assert found["alive"] == alive
    assert found["ended"].exit == how
    assert unpack(found["ended"].packed_xml) == "<domain/>"
    first.close()
    second.close()


def test_records_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vms.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(Failed, match="version is 99"):
        Records(path)


def test_records_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    with pytest.raises(Failed):
        Records(tmp_path / "absent" / "vms.sqlite")


def test_damaged_records_are_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "vms.sqlite"
    garbage = b"this is no database" * 100
    path.write_bytes(garbage)
    store = Records(path)
    assert store.all() == []
    assert (tmp_path / "vms.sqlite.damaged").read_bytes() == garbage
    store.close()


# -- guests


def test_guest_info() -> None:
    info = guests.parse(
        GuestReply({
            "hostname": "box",
            "os.id": "debian",
            "os.pretty-name": "Debian 12",
            "timezone.name": "UTC",
            "timezone.offset": 3600,
            "user.count": 1,
            "user.0.name": "root",
            "if.count": 1,
            "if.0.name": "eth0",
            "if.0.hwaddr": "52:54:00:00:00:01",
            "if.0.addr.count": 2,
            "if.0.addr.0.type": "ipv4",
            "if.0.addr.0.addr": "192.0.2.1",
            "if.0.addr.1.type": "ipv6",
            "if.0.addr.1.addr": "2001:db8::1",
        }),
        5.0,
    )
    assert (info.host_name, info.os_id, info.os_name, info.users) == ("box", "debian", "Debian 12", ("root",))
    assert info.timezone_offset_s == 3600
    (face,) = info.interfaces
    assert (face.ipv4, face.ipv6) == (("192.0.2.1",), ("2001:db8::1",))


KEYS = ["hostname", "os.id", "timezone.offset", "user.count", "user.0.name", "if.count", "if.0.addr.count", "if.0.name"]


@given(st.dictionaries(st.sampled_from(KEYS), st.one_of(st.integers(), st.text(), st.none(), st.binary())))
def test_guest_that_talks_nonsense(values: dict[str, object]) -> None:
    info = guests.parse(GuestReply(values), 1.0)
    assert len(info.host_name) <= guests.MAX_TEXT
    assert info.host_name.isprintable()
    assert len(info.users) <= guests.MAX_ITEMS
    assert len(info.interfaces) <= guests.MAX_ITEMS


# -- QEMU processes

STAT = "{pid} ({comm}) {state} 1 1 1 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 4 0 {start} 1000 300 18446744073709551615"


def fake_process(
    proc: Path, pid: int, vm_id: str, *, comm: str = "qemu-system-x86", state: str = "S", start: int = 5
) -> None:
    directory = proc / str(pid)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "comm").write_text(f"{comm}\n")
    (directory / "cmdline").write_bytes(b"\0".join([b"/usr/bin/" + comm.encode(), b"-uuid", vm_id.encode(), b""]))
    (directory / "stat").write_text(STAT.format(pid=pid, comm=comm, state=state, start=start))


def test_stat_of_a_process_whose_name_is_odd() -> None:
    facts = parse(7, STAT.format(pid=7, comm="a) R (b", state="T", start=100))
    assert facts is not None
    assert (facts.state, facts.stopped, facts.user_s, facts.system_s, facts.started_s) == ("T", True, 2.5, 1.5, 1.0)


@pytest.mark.parametrize("text", ["", "7", "7 (x", "7 (x) S 1 2", STAT.format(pid=7, comm="x", state="Z", start=1)])
def test_stat_that_says_nothing(text: str) -> None:
    assert parse(7, text) is None


def test_find_takes_only_qemus_of_these_vms(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, "vm-a")
    fake_process(tmp_path, 11, "vm-b")
    fake_process(tmp_path, 12, "vm-c", comm="editor")
    (tmp_path / "13").mkdir()
    (tmp_path / "self").mkdir()
    assert find(["vm-a", "vm-c", "vm-x"], tmp_path) == {"vm-a": 10}


def test_processes_are_searched_once_and_a_reused_pid_is_noticed(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, "vm-a")
    processes = Processes(tmp_path)
    assert processes.look(["vm-a"])["vm-a"].pid == 10
    fake_process(tmp_path, 10, "vm-a", state="T")
    assert processes.stopped("vm-a")
    fake_process(tmp_path, 10, "vm-other", start=77)  # the number belongs to another now
    assert not processes.stopped("vm-a")
    assert processes.look(["vm-a"]) == {}
    fake_process(tmp_path, 20, "vm-a")
    assert processes.look(["vm-a"])["vm-a"].pid == 20


def test_vm_without_a_visible_process_is_not_searched_for_ever(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    for _ in range(Processes.MAX_SEARCHES):
        assert processes.look(["vm-a"]) == {}
    fake_process(tmp_path, 10, "vm-a")
    assert processes.look(["vm-a"]) == {}
    assert processes.look([]) == {}
    assert processes.look(["vm-a"])["vm-a"].pid == 10
