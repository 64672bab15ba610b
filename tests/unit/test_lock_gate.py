"""The SPM's writes: let through while its lease is certain, refused the moment that it is not."""

from __future__ import annotations

import threading
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from vdsm.storage import guard
from vdsm.storage.errors import Damaged, LeaseFailed, LeaseHeld, LeaseLost, StorageFailed
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.formats.leases import Geometry, Leader, decode_leader
from vdsm.storage.ids import DomainId, new_id
from vdsm.storage.kinds import StorageType
from vdsm.storage.locks.lock_twin import SharedDisk, TwinHost, TwinLock
from vdsm.storage.oop import frames
from vdsm.storage.oop.helper import Server
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.pool.watchdog import Watchdog
from vdsm.storage.pool.write_gate import WriteGate

DOMAIN = DomainId(new_id())


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Pair:
    """Two hosts on one disk; the first is the SPM, behind a gate."""

    def __init__(self) -> None:
        self.disk = SharedDisk()
        self.hosts = [TwinHost(self.disk, name) for name in ("one", "two")]
        self.first, self.second = (self.lock_of(host) for host in self.hosts)
        self.hosts[0].valid_s = 80.0
        self.clock = Clock()
        self.first.format()
        self.first.join(1, wait_s=1)
        self.second.join(2, wait_s=1)
        self.first.acquire(self.first.sdm, 1)
        self.gate = WriteGate(self.first, self.first.sdm, 1, self.leader, clock=self.clock)

    def lock_of(self, host: TwinHost) -> TwinLock:
        return host.locks(DOMAIN, StorageType.NFS, "/ids", "/leases", Geometry())

    def leader(self) -> Leader:
        """What the lease's sector says."""
        if not self.hosts[0].answers:
            raise StorageFailed("reading", "no answer")
        lease = self.disk.leases[self.first.sdm.path, self.first.sdm.offset]
        owner, generation = lease.owner or (1, 1)
        return Leader(lease.lockspace, lease.resource, owner, generation, lease.version, lease.owner is not None)

    def other_takes_over(self) -> None:
        """The first is thought dead although it is not."""
        self.disk.seats[DOMAIN, 1].host = None
        self.second.acquire(self.second.sdm, 2)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_gate_is_shut_before_it_is_opened(pair: Pair) -> None:
    with pytest.raises(LeaseLost):
        pair.gate.check()
    pair.gate.open()
    pair.gate.check()


def test_gate_does_not_open_without_the_lease(pair: Pair) -> None:
    pair.first.release(pair.first.sdm)
    with pytest.raises(LeaseLost):
        pair.gate.open()
    with pytest.raises(LeaseLost):
        pair.gate.check()


def test_gate_asks_nobody_while_there_is_time(pair: Pair) -> None:
    pair.gate.open()
    pair.hosts[0].stop_keeper()
    pair.clock.now_s += 79.9
    pair.gate.check()
    pair.clock.now_s += 0.2
    with pytest.raises(LeaseLost):
        pair.gate.check()


def test_renewed_late_is_open_again_and_in_time_moves_on(pair: Pair) -> None:
    pair.gate.open()
    pair.clock.now_s += 100
    pair.hosts[0].valid_s = -20.0  # nobody has renewed
    with pytest.raises(LeaseFailed):
        pair.gate.check()
    assert pair.gate.overdue_s == pytest.approx(20.0)
    pair.hosts[0].valid_s = 75.0
    pair.gate.check()
    assert pair.gate.overdue_s == pytest.approx(-75.0)
    pair.clock.now_s += 10
    pair.hosts[0].valid_s = 79.0
    pair.gate.confirm()
    assert pair.gate.overdue_s == pytest.approx(-79.0)


def test_other_owner_on_the_storage_shuts_it_for_good(pair: Pair) -> None:
    """Where clocks stood still: the keeper knows nothing, and there seems to be time."""
    pair.gate.open()
    pair.other_takes_over()
    with pytest.raises(LeaseLost, match="host 2"):
        pair.gate.check()
    pair.second.release(pair.second.sdm)
    with pytest.raises(LeaseLost, match="host 2"):
        pair.gate.check()


@pytest.mark.parametrize(
    "change", [{"owner": 2}, {"generation": 2}, {"version": 2}, {"taken": False}, {"resource": "x"}, {"lockspace": "x"}]
)
def test_every_other_sector_shuts_it(pair: Pair, change: dict) -> None:
    mine = pair.leader()
    found = [mine]
    gate = WriteGate(pair.first, pair.first.sdm, 1, lambda: found[-1], clock=pair.clock)
    gate.open()
    gate.check()
    found.append(replace(mine, **change))
    with pytest.raises(LeaseLost):
        gate.check()
    found.append(mine)
    with pytest.raises(LeaseLost):
        gate.check()


def test_storage_that_does_not_answer_refuses_and_does_not_shut(pair: Pair) -> None:
    pair.gate.open()
    pair.hosts[0].silence()
    with pytest.raises(StorageFailed):
        pair.gate.check()
    pair.hosts[0].silence(silent=False)
    pair.gate.check()


def test_reading_that_outlasts_the_time_is_no_leave(pair: Pair) -> None:
    def slowly() -> Leader:
        pair.clock.now_s += slowness
        pair.hosts[0].valid_s -= slowness
        return pair.leader()

    slowness = 0.0
    gate = WriteGate(pair.first, pair.first.sdm, 1, slowly, clock=pair.clock)
    gate.open()
    slowness = 100.0
    with pytest.raises(LeaseFailed):
        gate.check()


def test_lock_of_one_host_never_runs_out(pair: Pair) -> None:
    pair.hosts[0].valid_s = inf
    gate = WriteGate(pair.first, pair.first.sdm, 1, clock=pair.clock)
    gate.open()
    pair.clock.now_s += 1e9
    gate.check()
    gate.shut("it is given back")
    gate.shut("another reason")
    with pytest.raises(LeaseLost, match="given back"):
        gate.check()


def test_work_asks_at_its_beginning_and_whenever_it_wants(pair: Pair) -> None:
    with pytest.raises(LeaseLost), guard.guarded(pair.gate.check):
        pytest.fail("it was begun")
    pair.gate.open()
    done = []

    def work() -> None:
        with guard.guarded(pair.gate.check):
            guard.check()
            done.append("before")
            pair.other_takes_over()
            guard.check()
            done.append("after")

    with pytest.raises(LeaseLost):
        work()
    assert done == ["before"]
    guard.check()  # outside nobody is asked


def test_each_change_of_a_file_is_asked_for(tmp_path: Path, pair: Pair) -> None:
    pool = HelperPool()
    files = pool.of("a domain")
    pair.gate.open()
    try:
        with guard.guarded(pair.gate.check):
            files.create(f"{tmp_path}/one", b"x")
            pair.other_takes_over()
            for change in (
                lambda: files.create(f"{tmp_path}/two"),
                lambda: files.replace(f"{tmp_path}/one", b"y"),
                lambda: files.unlink(f"{tmp_path}/one"),
                lambda: files.probe_block_size(str(tmp_path)),
            ):
                with pytest.raises(LeaseLost):
                    change()
            assert files.listdir(str(tmp_path)) == ["one"]
            assert files.read(f"{tmp_path}/one") == b"x"
    finally:
        assert pool.stop(30)


@pytest.mark.parametrize(("until_s", "begun"), [(0.0, True), (1e15, True), (1e-9, False)])
def test_helper_does_not_begin_a_change_too_late(tmp_path: Path, until_s: float, begun: bool) -> None:
    server = Server.__new__(Server)
    files = LocalFiles()
    server._calls = {name: getattr(files, name) for name in frames.CALLS}
    path = f"{tmp_path}/file"
    made = server._perform(frames.Request(1, "create", [path, b"x"], {"mode": 0o600}, until_s))
    assert (made.fault is None) is begun
    assert Path(path).exists() is begun
    looked = server._perform(frames.Request(2, "listdir", [str(tmp_path)], {}, until_s))
    assert looked.fault is None


class Told:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.event = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.event.set()


@pytest.mark.parametrize("fault", ["takeover", "keeper", "process"])
def test_watchdog_tells_once_and_shuts(pair: Pair, fault: str) -> None:
    told = Told()
    pair.gate.open()
    dog = Watchdog(pair.gate, told, interval_s=0.005)
    dog.start()
    {"takeover": pair.other_takes_over, "keeper": pair.hosts[0].stop_keeper, "process": pair.hosts[0].kill_process}[
        fault
    ]()
    assert told.event.wait(30)
    dog.stop(30)
    assert len(told.reasons) == 1
    with pytest.raises(LeaseLost):
        pair.gate.check()


def test_watchdog_waits_for_storage_until_patience_ends(pair: Pair) -> None:
    told = Told()
    pair.gate.open()
    dog = Watchdog(pair.gate, told, patience_s=20.0)
    pair.hosts[0].silence()
    assert dog._look() is None
    pair.clock.now_s += 99.0
    pair.hosts[0].valid_s = -19.0
    assert dog._look() is None
    pair.clock.now_s += 2.0
    pair.hosts[0].valid_s = -21.0
    assert "its time is over" in dog._look()
    with pytest.raises(LeaseLost):
        pair.gate.check()


def test_watchdog_that_is_stopped_tells_nothing(pair: Pair) -> None:
    told = Told()
    pair.gate.open()
    dog = Watchdog(pair.gate, told, interval_s=0.005)
    dog.start()
    dog.stop(30)
    pair.first.release(pair.first.sdm)
    assert not told.event.wait(0.05)


def test_watchdog_does_not_die_in_silence(pair: Pair) -> None:
    told = Told()
    pair.gate.open()

    def broken(host_id: int) -> float:
        raise RuntimeError("a defect")

    pair.first.valid_for_s = broken
    dog = Watchdog(pair.gate, told, interval_s=0.005)
    dog.start()
    assert told.event.wait(30)
    assert "a defect" in told.reasons[0]


def test_leases_of_hosts_in_memory_come_and_go(pair: Pair) -> None:
    one, two = pair.hosts
    with pytest.raises(LeaseHeld):
        pair.second.acquire(pair.second.sdm, 2)
    one.power_off()
    with pytest.raises(LeaseHeld):
        pair.second.acquire(pair.second.sdm, 2)
    pair.disk.expire(one)
    pair.second.acquire(pair.second.sdm, 2)
    one.power_on()
    assert not pair.first.holds(pair.first.sdm)
    pair.first.join(1, wait_s=1)
    with pytest.raises(LeaseHeld):
        pair.first.acquire(pair.first.sdm, 1)
    two.kill_process()
    pair.first.acquire(pair.first.sdm, 1)
    assert pair.first.inspect(pair.first.sdm).version == 3
    one.silence()
    with pytest.raises(LeaseFailed):
        pair.first.inspect(pair.first.sdm)


def test_lease_of_a_host_that_came_back_is_free(pair: Pair) -> None:
    """It is the generation that owns it, and a new one has begun."""
    pair.hosts[0].power_off()
    pair.hosts[0].power_on()
    pair.first.join(1, wait_s=1)
    assert pair.second.inspect(pair.second.sdm).owners == ()
    assert pair.second.inspect(pair.second.sdm).version == 1
    pair.second.acquire(pair.second.sdm, 2)


@pytest.mark.parametrize("data", [b"", bytes(512), b"\x10\x20\x15\x06" + b"\xff" * 508, b"\x10\x20"])
def test_what_is_no_lease_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        decode_leader(data, "a lease")
