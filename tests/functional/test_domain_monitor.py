"""Monitors of storage domains say what is true, one stuck domain touches no other, and all recover by themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from domain_parts import LocalDoors, PaperLocks, Place, bound, eventually, registry, request
from needs import needs
from storage_domains import Areas
from vdsm.base.clock import monotonic_s
from vdsm.base.errors import NotResponding
from vdsm.storage.clusterlock import Membership
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_opener import DomainTools
from vdsm.storage.domains.domains import Domains
from vdsm.storage.domains.monitor import DomainReport, Monitors
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import Geometry
from vdsm.storage.ids import DomainId, new_id
from vdsm.storage.kinds import DomainClass, DomainRole, StorageType
from vdsm.storage.locks.local_lock import LocalLock
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits

OFTEN_S = 0.05


@dataclass
class Watch:
    """Some domains, their monitors, and what these told."""

    domains: Domains
    monitors: Monitors
    locks: PaperLocks
    told: list[tuple[DomainId, bool, int]] = field(default_factory=list)

    def report(self, domain_id: DomainId) -> DomainReport:
        return self.monitors.reports()[domain_id]

    def told_of(self, domain_id: DomainId) -> list[tuple[bool, int]]:
        return [(valid, code) for ident, valid, code in self.told if ident == domain_id]


class Gate(LocalFiles):
    """Files that wait at a gate, or fail, when metadata is read."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.errors: list[Exception] = []
        self.reads = 0

    def read(self, path: str, *, offset: int = 0, size: int | None = None, direct: bool = False) -> bytes:
        self.reads += 1
        self.open.wait(60)
        if self.errors:
            raise self.errors.pop(0)
        return super().read(path, offset=offset, size=size, direct=direct)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.of(tmp_path / "place")


@pytest.fixture
def watch(place: Place, gate: Gate) -> Iterator[Watch]:
    locks = PaperLocks()
    domains = registry([place], LocalDoors(gate), locks)
    told: list[tuple[DomainId, bool, int]] = []
    monitors = Monitors(
        domains, interval_s=OFTEN_S, changed=lambda ident, said: told.append((ident, said.valid, said.code))
    )
    yield Watch(domains, monitors, locks, told)
    gate.open.set()
    assert monitors.stop(60)


def actual(watch: Watch, domain_id: DomainId) -> DomainReport:
    eventually(lambda: watch.report(domain_id).actual)
    return watch.report(domain_id)


def later(watch: Watch, domain_id: DomainId) -> DomainReport:
    """The report of a check that began after now."""
    for _ in range(2):
        checked_after(watch.monitors, [domain_id], monotonic_s())
    return watch.report(domain_id)


def checked_after(monitors: Monitors, ids: Sequence[DomainId], instant_s: float) -> None:
    eventually(lambda: all(monitors.reports()[ident].last_check_s > instant_s for ident in ids))


def test_before_its_first_check_a_domain_is_taken_for_valid(place: Place, watch: Watch, gate: Gate) -> None:
    made = watch.domains.create(request(place))
    gate.open.clear()
    before = monotonic_s()
    watch.monitors.watch(made.id)
    said = watch.report(made.id)
    assert said.last_check_s >= before
    assert said == DomainReport(last_check_s=said.last_check_s)
    assert (said.code, said.valid, said.actual, said.acquired, said.version, said.delay_s) == (
        *(0, True, False, False, -1, 0.0),
    )
    assert watch.told == []
    gate.open.set()
    said = actual(watch, made.id)
    assert (said.code, said.valid, said.acquired, said.version, said.reason) == (0, True, False, 5, "")
    assert said.delay_s > 0
    assert said.space is not None
    assert said.space.total > said.space.free > 0
    assert said.master_ready is None
    eventually(lambda: watch.told == [(made.id, True, 0)])


def damage(domain: Domain) -> None:
    Path(f"{domain.path}/dom_md/metadata").write_bytes(b"CLASS=Data\n_SHA_CKSUM=0\n")


def vanish(domain: Domain) -> None:
    Path(domain.path).rename(f"{domain.mount}/away")


def unreadable(domain: Domain) -> None:
    path = Path(f"{domain.path}/dom_md/metadata")
    path.rename(f"{path}.kept")
    path.mkdir()


def old(domain: Domain) -> None:
    Path(f"{domain.path}/dom_md/metadata").write_bytes(b"SDUUID=x\nVERSION=2\n")


@pytest.mark.parametrize(("harm", "code"), [(damage, 752), (vanish, 358), (unreadable, 200), (old, 394)])
def test_broken_domain_is_said_with_its_error_and_found_whole_again(
    place: Place, watch: Watch, harm: Callable[[Domain], None], code: int
) -> None:
    made = watch.domains.create(request(place))
    metadata = Path(f"{made.path}/dom_md/metadata")
    text = metadata.read_bytes()
    watch.monitors.watch(made.id)
    actual(watch, made.id)
    harm(made)
    eventually(lambda: not watch.report(made.id).valid)
    said = later(watch, made.id)
    assert (said.valid, said.actual, said.code, said.delay_s, said.version) == (False, True, code, 0.0, 5)
    assert said.reason
    if harm is vanish:
        Path(f"{made.mount}/away").rename(made.path)
    elif harm is unreadable:
        metadata.rmdir()
        Path(f"{metadata}.kept").rename(metadata)
    else:
        metadata.write_bytes(text)
    eventually(lambda: watch.report(made.id).valid)
    assert watch.report(made.id).code == 0
    eventually(lambda: len(watch.told) == 3)
    assert watch.told_of(made.id) == [(True, 0), (False, code), (True, 0)]


def test_domain_that_never_was_is_invalid_and_appears(place: Place, watch: Watch) -> None:
    wanted = request(place)
    watch.monitors.watch(wanted.id)
    assert actual(watch, wanted.id).code == 358
    watch.domains.create(wanted)
    eventually(lambda: watch.report(wanted.id).valid)
    assert watch.told_of(wanted.id) == [(False, 358), (True, 0)]


def test_domain_that_has_moved_is_found_where_it_is(tmp_path: Path) -> None:
    places = [Place.of(tmp_path / "a"), Place.of(tmp_path / "b")]
    domains = registry(places)
    made = domains.create(request(places[0]))
    monitors = Monitors(domains, interval_s=OFTEN_S)
    monitors.watch(made.id)
    eventually(lambda: monitors.reports()[made.id].actual)
    Path(made.path).rename(f"{places[1].path}/{made.id}")
    checked_after(monitors, [made.id], monotonic_s())
    eventually(lambda: monitors.reports()[made.id].valid)
    assert domains.find(made.id).mount == places[1].path
    assert monitors.stop(60)


def test_what_was_not_asked_is_asked_again_before_the_domain_is_invalid(place: Place, gate: Gate) -> None:
    domains = registry([place], LocalDoors(gate))
    made = domains.create(request(place))
    told: list[bool] = []
    monitors = Monitors(domains, interval_s=5.0, changed=lambda _, said: told.append(said.valid))
    gate.errors = [NotResponding("the domain", 1.0) for _ in range(3)]
    monitors.watch(made.id)
    eventually(lambda: monitors.reports()[made.id].actual)
    assert (told, gate.errors) == ([True], [])
    assert monitors.stop(60)


def test_stale_handle_has_its_own_number(place: Place, watch: Watch, gate: Gate) -> None:
    made = watch.domains.create(request(place))
    watch.monitors.watch(made.id)
    actual(watch, made.id)
    gate.errors = [OSError(116, "Stale file handle")]
    eventually(lambda: watch.told_of(made.id) == [(True, 0), (False, 384), (True, 0)])


def test_defect_makes_the_domain_invalid_and_not_the_monitor_dead(place: Place, watch: Watch, gate: Gate) -> None:
    made = watch.domains.create(request(place))
    gate.errors = [TypeError("a defect"), TypeError("a defect")]
    watch.monitors.watch(made.id)
    eventually(lambda: watch.told_of(made.id) == [(False, 200), (True, 0)])


def test_listener_that_fails_does_not_end_the_monitor(place: Place) -> None:
    domains = registry([place])
    made = domains.create(request(place))
    heard = []

    def listen(_: DomainId, said: DomainReport) -> None:
        heard.append(said.valid)
        raise ValueError

    monitors = Monitors(domains, interval_s=OFTEN_S, changed=listen)
    monitors.watch(made.id)
    eventually(lambda: heard == [True])
    damage(made)
    eventually(lambda: heard == [True, False])
    assert monitors.stop(60)


# The lockspace


def test_host_joins_once_it_is_told_its_id_and_leaves_when_not_watched_any_more(place: Place, watch: Watch) -> None:
    made = watch.domains.create(request(place))
    lock = watch.locks.made[made.id]
    watch.monitors.watch(made.id)
    assert not later(watch, made.id).acquired
    assert (lock.begun, lock.joined) == (set(), set())
    watch.monitors.use_host_id(7)
    eventually(lambda: lock.begun == {7})
    assert not watch.report(made.id).acquired
    lock.joined.add(7)
    eventually(lambda: watch.report(made.id).acquired)
    assert watch.monitors.unwatch(made.id)
    assert (lock.membership(7), watch.monitors.watched(), watch.monitors.reports()) == (Membership.NO, [], {})
    assert watch.monitors.unwatch(made.id)


def test_host_stays_in_the_lockspace_when_the_agent_stops(place: Place) -> None:
    locks = PaperLocks()
    domains = registry([place], locks=locks)
    made = domains.create(request(place))
    monitors = Monitors(domains, 7, interval_s=OFTEN_S)
    monitors.watch(made.id)
    eventually(lambda: locks.made[made.id].begun == {7})
    assert monitors.stop(60)
    assert locks.made[made.id].begun == {7}


def test_local_domain_is_joined_with_its_real_lock(place: Place) -> None:
    def local(domain_id: DomainId, _: StorageType, ids: str, leases: str, shape: Geometry) -> LocalLock:
        return LocalLock(domain_id, ids, leases, shape)

    pool = HelperPool()
    tools = DomainTools(pool, local, QemuImageMaker(), Areas())
    domains = Domains(lambda: [place], tools, timeout_s=60.0)
    made = domains.create(request(place))
    monitors = Monitors(domains, 7, interval_s=OFTEN_S)
    monitors.watch(made.id)
    eventually(lambda: monitors.reports()[made.id].acquired)
    made.lock.acquire(made.lock.sdm, 7)
    domains.forget(made.id)
    assert domains.find(made.id).lock.holds(made.lock.sdm)
    made.lock.release(made.lock.sdm)
    assert monitors.unwatch(made.id)
    assert made.lock.membership(7) is Membership.NO
    assert pool.stop(20)


def test_iso_domain_is_never_joined(place: Place, watch: Watch) -> None:
    made = watch.domains.create(request(place, domain_class=DomainClass.ISO))
    watch.monitors.use_host_id(7)
    watch.monitors.watch(made.id)
    later(watch, made.id)
    assert watch.locks.made[made.id].begun == set()
    assert (watch.report(made.id).valid, watch.report(made.id).acquired) == (True, False)


def test_lockspace_that_cannot_be_joined_makes_no_domain_invalid(place: Place, watch: Watch) -> None:
    made = watch.domains.create(request(place))
    lock = watch.locks.made[made.id]
    lock.fails = "taken"
    watch.monitors.use_host_id(7)
    watch.monitors.watch(made.id)
    later(watch, made.id)
    assert (watch.report(made.id).valid, watch.report(made.id).acquired) == (True, False)
    lock.fails = ""
    eventually(lambda: lock.begun == {7})
    lock.joined.add(7)
    eventually(lambda: watch.report(made.id).acquired)


def test_who_watches_again_joins_after_the_earlier_monitor_has_left(place: Place, watch: Watch) -> None:
    made = watch.domains.create(request(place))
    lock = watch.locks.made[made.id]
    watch.monitors.use_host_id(7)
    watch.monitors.watch(made.id)
    eventually(lambda: lock.begun == {7})
    lock.may_leave.clear()
    assert not watch.monitors.unwatch(made.id, wait_s=0.0)
    eventually(lambda: lock.left == [7])
    watch.monitors.watch(made.id)
    later(watch, made.id)
    assert lock.begun == set()  # the leaving is under way
    lock.may_leave.set()
    eventually(lambda: lock.begun == {7})
    later(watch, made.id)
    assert (lock.begun, lock.left) == ({7}, [7])


# What changes under a monitor


def test_master_s_directories_are_looked_for(place: Place, watch: Watch) -> None:
    made = watch.domains.create(request(place))

    def master(metadata: DomainMetadata) -> DomainMetadata:
        return replace(metadata, role=DomainRole.MASTER)

    watch.domains.update(made.id, master)
    watch.monitors.watch(made.id)
    assert (actual(watch, made.id).master_ready, watch.report(made.id).valid) == (False, True)
    for name in ("tasks", "vms"):
        Path(f"{made.master_path}/{name}").mkdir(parents=True)
    eventually(lambda: watch.report(made.id).master_ready)


def test_upgraded_domain_is_opened_anew(place: Place, watch: Watch) -> None:
    made = watch.domains.create(request(place, version=4))
    watch.monitors.watch(made.id)
    assert actual(watch, made.id).version == 4
    # Another host does it.
    other = registry([place])
    other.update(made.id, lambda metadata: replace(metadata, version=5))
    eventually(lambda: watch.report(made.id).version == 5)
    eventually(lambda: watch.domains.find(made.id).version == 5)


def test_watched_twice_is_once_and_unwatched_is_gone(place: Place, watch: Watch) -> None:
    made = watch.domains.create(request(place))
    threads = threading.active_count()
    for _ in range(3):
        watch.monitors.watch(made.id)
    assert threading.active_count() == threads + 1
    assert watch.monitors.watched() == [made.id]
    assert watch.monitors.unwatch(made.id)
    eventually(lambda: threading.active_count() == threads)
    watch.monitors.check(made.id)
    assert watch.monitors.unwatch(DomainId(new_id()))


def test_unwatching_a_stuck_domain_is_said_to_go_on(place: Place, watch: Watch, gate: Gate) -> None:
    made = watch.domains.create(request(place))
    gate.open.clear()
    watch.monitors.watch(made.id)
    eventually(lambda: gate.reads)
    assert not watch.monitors.unwatch(made.id, wait_s=0.1)
    assert watch.monitors.reports() == {}
    gate.open.set()


# Storage that does not answer


@needs("root", "fuse", "program:bindfs")
def test_frozen_domain_is_invalid_others_are_not_and_it_comes_back(tmp_path: Path) -> None:
    limits = HelperLimits(timeout_s=2.0, first_delay_s=0.2, longest_delay_s=0.5)
    pool, told = HelperPool(limits), list[tuple[DomainId, bool, int]]()
    with bound(tmp_path / "real", tmp_path / "frozen") as frozen:
        places = [Place.of(frozen.mount), Place.of(tmp_path / "a"), Place.of(tmp_path / "b")]
        domains = registry(places, pool, timeout_s=2.0)
        stuck, *others = [domains.create(request(place)).id for place in places]
        monitors = Monitors(
            domains, interval_s=2.0, changed=lambda ident, said: told.append((ident, said.valid, said.code))
        )
        for ident in (stuck, *others):
            monitors.watch(ident)
        eventually(lambda: sorted(told) == sorted((ident, True, 0) for ident in (stuck, *others)))
        threads = threading.active_count()
        frozen.freeze()
        eventually(lambda: not monitors.reports()[stuck].valid)
        said = monitors.reports()[stuck]
        assert (said.code, said.version, said.actual) == (2001, 5, True)
        assert "Read timeout" in said.reason
        # Some checks later it is as before: nothing piles up, and the others were checked meanwhile.
        for _ in range(2):
            checked_after(monitors, [stuck, *others], monotonic_s())
            assert [monitors.reports()[ident].valid for ident in (stuck, *others)] == [False, True, True]
        assert threading.active_count() <= threads + limits.abandoned + 1
        assert all(stats.abandoned <= limits.abandoned for stats in pool.stats())
        frozen.thaw()
        eventually(lambda: monitors.reports()[stuck].valid)
        assert told[3:] == [(stuck, False, 2001), (stuck, True, 0)]
        assert domains.info(stuck).domain_id == stuck
        assert monitors.stop(60)
    assert pool.stop(20)
