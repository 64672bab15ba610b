"""What every ClusterLock promises: the file's, the one in memory, and sanlock's.

sanlock needs its daemon, so that part runs in a lab node (tests/lab/test_sanlock_lock.py starts it there):

    VDSM_SANLOCK_DIR     a directory on a file system that takes direct I/O
    VDSM_SANLOCK_RATE    how much faster than the machine's the daemon's clock runs
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vdsm.storage.clusterlock import ClusterLock, Membership
from vdsm.storage.errors import HostIdFailed, InvalidParameter, LeaseFailed, LeaseHeld
from vdsm.storage.formats.leases import MIB, Geometry, LeaseRecord
from vdsm.storage.ids import DomainId, new_id
from vdsm.storage.kinds import StorageType
from vdsm.storage.locks.local_lock import LocalLock
from vdsm.storage.locks.lock_twin import SharedDisk, TwinHost
from vdsm.storage.locks.sanlock_lock import SanlockLeases, SanlockSettings
from vdsm.system.sanlock.daemon import Daemon

SHAPE = Geometry()
SANLOCK_DIR = os.environ.get("VDSM_SANLOCK_DIR", "")
JOIN_S = 60.0


@dataclass
class Pair:
    """Two locks of one domain, as two processes have them; ``second_id`` is the second's host id."""

    first: ClusterLock
    second: ClusterLock
    second_id: int
    counts: bool
    volume: LeaseRecord | None
    format_volume: Callable[[], None]

    def join(self) -> None:
        self.first.format()
        self.first.join(1, wait_s=JOIN_S)
        self.second.join(self.second_id, wait_s=JOIN_S)


def on_file(path: Path, domain_id: DomainId) -> Pair:
    (path / "ids").touch()
    first, second = (LocalLock(domain_id, f"{path}/ids", f"{path}/leases", SHAPE) for _ in range(2))
    return Pair(first, second, 1, counts=False, volume=None, format_volume=lambda: None)


def in_memory(path: Path, domain_id: DomainId) -> Pair:
    hosts = [TwinHost(disk, name) for disk in [SharedDisk()] for name in ("one", "two")]
    first, second = (host.locks(domain_id, StorageType.NFS, "/ids", "/leases", SHAPE) for host in hosts)
    volume = LeaseRecord(domain_id, new_id(), "/volume.lease", 0, SHAPE)
    return Pair(first, second, 2, counts=True, volume=volume, format_volume=lambda: hosts[0].write_resource(volume))


def by_sanlock(_: Path, domain_id: DomainId) -> Pair:
    path = Path(SANLOCK_DIR, domain_id)
    path.mkdir()
    for name in ("ids", "leases", "volume.lease"):
        (path / name).touch()
    settings = SanlockSettings(io_timeout_s=5, clock_rate=float(os.environ["VDSM_SANLOCK_RATE"]))
    both = [SanlockLeases(Daemon(), settings) for _ in range(2)]
    first, second = (one.of(domain_id, f"{path}/ids", f"{path}/leases", SHAPE) for one in both)
    volume = LeaseRecord(domain_id, new_id(), f"{path}/volume.lease", 0, SHAPE)
    return Pair(first, second, 1, counts=True, volume=volume, format_volume=lambda: both[0].write_resource(volume))


@pytest.fixture(params=[on_file, in_memory, *([by_sanlock] if SANLOCK_DIR else [])])
def pair(request: pytest.FixtureRequest, tmp_path: Path):
    made = request.param(tmp_path, DomainId(new_id()))
    yield made
    for lock, host_id in ((made.first, 1), (made.second, made.second_id)):
        for lease in filter(None, (lock.sdm, made.volume)):
            with suppress(LeaseFailed):
                lock.release(lease)
        with suppress(HostIdFailed):
            lock.leave(host_id)


def test_nothing_is_had_without_joining(pair: Pair) -> None:
    pair.first.format()
    assert pair.first.membership(1) is Membership.NO
    with pytest.raises(LeaseFailed):
        pair.first.acquire(pair.first.sdm, 1)
    with pytest.raises(LeaseFailed):
        pair.first.valid_for_s(1)
    assert not pair.first.holds(pair.first.sdm)
    pair.first.release(pair.first.sdm)
    pair.first.leave(1)


def test_joining_twice_is_joining_once(pair: Pair) -> None:
    pair.first.format()
    pair.first.join(1, wait_s=None)
    pair.first.join(1, wait_s=JOIN_S)
    pair.first.join(1, wait_s=JOIN_S)
    assert pair.first.membership(1) is Membership.YES
    assert pair.first.membership(2) is Membership.NO
    assert pair.first.valid_for_s(1) > 0
    with pytest.raises(HostIdFailed):
        pair.first.join(2, wait_s=JOIN_S)
    pair.first.leave(1)
    pair.first.leave(1)
    assert pair.first.membership(1) is Membership.NO


@pytest.mark.parametrize("host_id", [0, -1, 2001])
def test_host_ids_without_a_place_are_refused(pair: Pair, host_id: int) -> None:
    with pytest.raises(InvalidParameter):
        pair.first.join(host_id, wait_s=None)


def test_one_has_the_lease_and_the_other_does_not(pair: Pair) -> None:
    pair.join()
    first, second = pair.first, pair.second
    assert first.inspect(first.sdm).owners == second.inspect(first.sdm).owners == ()
    first.acquire(first.sdm, 1)
    assert first.holds(first.sdm)
    assert not second.holds(first.sdm)
    assert first.inspect(first.sdm).owners == (1,)
    assert len(second.inspect(first.sdm).owners) == 1
    version = first.inspect(first.sdm).version
    assert version == (1 if pair.counts else 0)
    with pytest.raises(LeaseHeld):
        first.acquire(first.sdm, 1)
    with pytest.raises(LeaseHeld):
        second.acquire(second.sdm, pair.second_id)
    second.release(second.sdm)  # not its own: nothing
    assert first.holds(first.sdm)
    with pytest.raises(HostIdFailed):
        first.leave(1)
    first.release(first.sdm)
    first.release(first.sdm)
    assert not first.holds(first.sdm)
    assert second.inspect(first.sdm).owners == ()
    second.acquire(second.sdm, pair.second_id)
    assert second.holds(second.sdm)
    if pair.counts:
        assert first.inspect(first.sdm).version == version + 1


def test_of_many_at_once_one_gets_it(pair: Pair) -> None:
    pair.join()
    start = threading.Barrier(8)

    def attempt(number: int) -> int:
        lock, host_id = ((pair.first, 1), (pair.second, pair.second_id))[number % 2]
        start.wait(30)
        try:
            lock.acquire(lock.sdm, host_id)
        except LeaseHeld:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert pair.first.holds(pair.first.sdm) + pair.second.holds(pair.second.sdm) == 1


def test_what_is_no_lease_is_not_taken(pair: Pair) -> None:
    pair.join()
    strange = replace(pair.first.sdm, resource=new_id())
    nowhere = replace(pair.first.sdm, offset=5 * MIB, resource=new_id())
    for lease in (strange, nowhere):
        with pytest.raises(LeaseFailed):
            pair.first.acquire(lease, 1)
        with pytest.raises(LeaseFailed):
            pair.first.inspect(lease)
    pair.first.acquire(pair.first.sdm, 1)


def test_value_is_on_the_storage_after_the_release(pair: Pair) -> None:
    pair.join()
    first, second = pair.first, pair.second
    if pair.volume is None:
        for call in (lambda: first.read_value(first.sdm), lambda: first.write_value(first.sdm, b"x")):
            with pytest.raises(LeaseFailed):
                call()
        return
    pair.format_volume()
    first.acquire(pair.volume, 1)
    with pytest.raises(LeaseFailed):
        first.read_value(pair.volume)
    first.release(pair.volume)
    first.acquire(pair.volume, 1, value=True)
    assert first.read_value(pair.volume) == bytes(512)
    with pytest.raises(InvalidParameter):
        first.write_value(pair.volume, bytes(513))
    first.write_value(pair.volume, b"a value")
    first.release(pair.volume)
    second.acquire(pair.volume, pair.second_id, value=True)
    assert second.read_value(pair.volume) == b"a value".ljust(512, b"\0")
    second.acquire(second.sdm, pair.second_id)  # leases do not disturb one another
    assert second.holds(pair.volume)
    assert not first.holds(pair.volume)
