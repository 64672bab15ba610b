"""External leases on a domain in memory, and, in a lab node, on files and sanlock (see test_clusterlock)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from vdsm.base.errors import VdsmError
from vdsm.operations.host_journal import HostJournal
from vdsm.operations.kinds import Kinds, Policy
from vdsm.operations.locks import Locks
from vdsm.operations.manager import Operations
from vdsm.operations.records import Phase
from vdsm.storage.backend import Area
from vdsm.storage.clusterlock import Membership
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_maker import create_domain
from vdsm.storage.errors import (
    Damaged,
    GenerationMismatch,
    LeaseFailed,
    LeaseHeld,
    NoSpace,
    NoSuchLease,
    UnsupportedOperation,
    WrongJob,
)
from vdsm.storage.files.file_backend import FileBackend
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.formats import xleases
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import MIB, JobStatus, JobValue, LeaseRecord
from vdsm.storage.ids import DomainId, LeaseId, new_id
from vdsm.storage.kinds import DomainClass, StorageType
from vdsm.storage.leases.external_leases import AddLease, ExternalLeases, RemoveLease
from vdsm.storage.leases.lease_index import LeaseAreas, LeaseIndex, Rebuilt
from vdsm.storage.locks.lock_twin import SharedDisk, TwinHost
from vdsm.storage.locks.sanlock_lock import SanlockLeases, SanlockSettings
from vdsm.storage.memory import MemoryBackend
from vdsm.system.sanlock.daemon import Daemon

SANLOCK_DIR = os.environ.get("VDSM_SANLOCK_DIR", "")
NOW_S = 1_700_000_000
JOB = JobValue(3, new_id(), JobStatus.PENDING, NOW_S, NOW_S, "this host")


@dataclass
class Place:
    """A joined domain, its leases, and how to look at them past ours."""

    domain: Domain
    areas: LeaseAreas
    leases: ExternalLeases

    @property
    def id(self) -> DomainId:
        return self.domain.id

    @property
    def index(self) -> LeaseIndex:
        return LeaseIndex(self.domain, self.areas)

    def known(self) -> dict[int, str]:
        return {record.number: record.lease_id for record in self.index.read().records() if not record.updating}

    def at(self, number: int) -> str | None:
        """The name of the lease at a record's place."""
        names = self.index.names(number)
        assert names is None or names[0] == self.id
        return names[1] if names else None

    def write(self, number: int, record: bytes) -> None:
        """Put 64 bytes into the index as a stranger would."""
        area = self.domain.backend.area(Area.XLEASES)
        at = MIB + xleases.HEADER_SIZE + number * xleases.RECORD_SIZE
        start = at - at % 512
        sector = bytearray(area.read(start, 512))
        sector[at - start : at - start + 64] = record
        area.write(start, bytes(sector))


def opened(metadata: DomainMetadata, backend: object, areas: LeaseAreas, lock: object) -> Place:
    domain = Domain(
        metadata.domain_id, metadata.storage_type, DomainClass.DATA, metadata.version, metadata.geometry,
        "/nowhere", LocalFiles(), backend, lock,
    )  # fmt: skip
    return Place(domain, areas, ExternalLeases(lambda _: domain, areas, lambda: 1))


def described() -> DomainMetadata:
    return DomainMetadata(DomainId(new_id()), StorageType.NFS, 5, remote_path="server:/somewhere")


def in_memory() -> Place:
    metadata = described()
    disk = SharedDisk()
    host = TwinHost(disk)
    backend = MemoryBackend(metadata)
    area = backend.area(Area.XLEASES)
    disk.areas[area.path] = area
    area.write(MIB, xleases.format_index(metadata.domain_id, NOW_S))
    lock = host.locks(metadata.domain_id, metadata.storage_type, "/ids", "/leases", metadata.geometry)
    lock.format()
    return opened(metadata, backend, host, lock)


def on_sanlock() -> Place:
    """Joining takes seconds: one domain serves all tests, with its leases forgotten."""
    place = real_domain()
    area = place.domain.backend.area(Area.XLEASES)
    place.domain.files.truncate(area.path, MIB)
    place.domain.files.truncate(area.path, MIB + xleases.INDEX_SIZE)
    area.write(MIB, xleases.format_index(place.id, NOW_S))
    return place


@cache
def real_domain() -> Place:
    metadata = described()
    root = Path(SANLOCK_DIR, new_id())
    root.mkdir()
    settings = SanlockSettings(io_timeout_s=5, clock_rate=float(os.environ["VDSM_SANLOCK_RATE"]))
    leases = SanlockLeases(Daemon(), settings)
    backend = FileBackend(LocalFiles(), str(root), metadata, QemuImageMaker(), leases)
    paths = [backend.area(area).path for area in (Area.IDS, Area.LEASES)]
    lock = leases.of(metadata.domain_id, *paths, metadata.geometry)
    create_domain(LocalFiles(), str(root), metadata, lock.format, now_s=NOW_S)
    return opened(metadata, backend, leases, lock)


@pytest.fixture(params=[in_memory, *([on_sanlock] if SANLOCK_DIR else [])])
def place(request: pytest.FixtureRequest) -> Place:
    made = request.param()
    made.domain.lock.join(1, wait_s=60)
    return made


def fresh() -> LeaseId:
    return LeaseId(new_id())


def test_lease_is_made_found_and_removed(place: Place) -> None:
    one, two, three = fresh(), fresh(), fresh()
    for lease_id in (one, two, two, three):
        place.leases.create(place.id, lease_id)
    assert place.known() == {0: one, 1: two, 2: three}
    assert [place.at(number) for number in range(3)] == [one, two, three]
    found = place.leases.info(place.id, two)
    assert found == LeaseRecord(place.id, two, place.domain.backend.area(Area.XLEASES).path, 4 * MIB, found.geometry)
    assert place.leases.status(place.id, two)[0].owners == ()
    assert place.domain.backend.area(Area.XLEASES).size() == 6 * MIB
    place.leases.delete(place.id, two)
    place.leases.delete(place.id, two)
    assert place.known() == {0: one, 2: three}
    assert place.at(1) is None
    with pytest.raises(NoSuchLease):
        place.leases.info(place.id, two)
    place.leases.create(place.id, two)
    assert place.known() == {0: one, 1: two, 2: three}


def test_lease_that_is_held_stays(place: Place) -> None:
    lease_id = fresh()
    place.leases.create(place.id, lease_id)
    lease = place.leases.info(place.id, lease_id)
    place.domain.lock.acquire(lease, 1)
    assert place.leases.status(place.id, lease_id)[0].owners == (1,)
    with pytest.raises(LeaseHeld):
        place.leases.delete(place.id, lease_id)
    place.domain.lock.release(lease)
    place.leases.delete(place.id, lease_id)


def test_job_is_fenced_once_and_only_if_it_is_the_one(place: Place) -> None:
    lease_id = fresh()
    place.leases.create(place.id, lease_id, JOB)
    assert place.leases.status(place.id, lease_id)[1] == JOB
    with pytest.raises(WrongJob):
        place.leases.fence(place.id, lease_id, replace(JOB, job_id=new_id()))
    with pytest.raises(GenerationMismatch):
        place.leases.fence(place.id, lease_id, replace(JOB, generation=4))
    lease = place.leases.info(place.id, lease_id)
    place.domain.lock.acquire(lease, 1)
    with pytest.raises(LeaseHeld):
        place.leases.fence(place.id, lease_id, JOB)
    place.domain.lock.release(lease)
    place.leases.fence(place.id, lease_id, JOB)
    state, found = place.leases.status(place.id, lease_id)
    assert state.owners == ()
    assert (found.job_id, found.status, found.generation) == (JOB.job_id, JobStatus.FENCED, 4)
    with pytest.raises(GenerationMismatch):
        place.leases.fence(place.id, lease_id, JOB)
    with pytest.raises(WrongJob):
        place.leases.fence(place.id, lease_id, replace(JOB, generation=4))


def test_value_of_a_removed_lease_is_not_inherited(place: Place) -> None:
    one, two = fresh(), fresh()
    place.leases.create(place.id, one, JOB)
    place.leases.delete(place.id, one)
    place.leases.create(place.id, two)
    assert place.leases.status(place.id, two)[1] is None


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("cut", range(4))
def test_adding_is_before_or_after_wherever_it_is_cut(place: Place, cut: int, half: bool) -> None:
    """``half``: the step where it was cut was done, and nobody knows."""
    kind, lease_id, other = place.leases.kinds().add, fresh(), fresh()
    if cut % 2:
        place.leases.create(place.id, other)
    before = place.known()
    wanted = kind.decide(AddLease(domain_id=place.id, lease_id=lease_id, job=JOB))
    for again in (False, True):
        done = cut + half
        for step in kind.plan(wanted)[:done]:
            step.do(None)
        if again:
            for step in kind.plan(wanted):  # a new process goes on, or begins anew
                step.do(None)
            break
        for step in reversed(kind.plan(wanted)[:done]):
            step.undo(None)
        assert place.known() == before
        assert place.at(wanted.number) is None
    assert place.known() == {**before, wanted.number: lease_id}
    assert place.leases.status(place.id, lease_id)[1] == JOB


def test_clearing_spares_what_another_manager_put_there(place: Place) -> None:
    """Cut off between its steps, finished after another host used the place."""
    kind, lease_id, other = place.leases.kinds().remove, fresh(), fresh()
    place.leases.create(place.id, lease_id)
    wanted = kind.decide(RemoveLease(domain_id=place.id, lease_id=lease_id))
    first, second = kind.plan(wanted)
    first.do(None)
    place.leases.create(place.id, other)
    second.do(None)
    assert place.known() == {0: other}
    assert place.at(0) == other


def test_operations_leave_nothing_behind(place: Place, tmp_path: Path) -> None:
    kinds = place.leases.kinds()
    operations = Operations(Kinds(kinds), HostJournal(tmp_path), Locks())
    operations.resume()
    lease_id = fresh()
    assert kinds.remove.policy is Policy.FINISH
    for kind, wanted in (
        (kinds.add, AddLease(domain_id=place.id, lease_id=lease_id)),
        (kinds.add, AddLease(domain_id=place.id, lease_id=lease_id)),
        (kinds.remove, RemoveLease(domain_id=place.id, lease_id=lease_id)),
        (kinds.remove, RemoveLease(domain_id=place.id, lease_id=lease_id)),
    ):
        view = operations.submit(kind, wanted)
        assert operations.wait(view.id, 60).phase is Phase.DONE
    assert place.known() == {}
    operations.stop(5)


def test_index_that_was_cut_off_is_refused_until_it_is_rebuilt(place: Place) -> None:
    one, two = fresh(), fresh()
    for lease_id in (one, two):
        place.leases.create(place.id, lease_id)
    area = place.domain.backend.area(Area.XLEASES)
    index = area.read(MIB, xleases.INDEX_SIZE)
    area.write(MIB, xleases.flagged(index, place.domain.geometry))
    for call in (place.leases.info, place.leases.create, place.leases.delete):
        with pytest.raises(Damaged):
            call(place.id, one)
    assert place.index.rebuild(NOW_S) == Rebuilt()
    assert area.read(MIB, xleases.INDEX_SIZE) == index


@pytest.mark.parametrize("damage", [b"\xff" * 64, b"x" * 64, b"a lease".ljust(64, b"\0")], ids=["ones", "text", "cut"])
def test_unreadable_record_is_taken_from_its_lease(place: Place, damage: bytes) -> None:
    ids = [fresh() for _ in range(3)]
    for lease_id in ids:
        place.leases.create(place.id, lease_id)
    place.write(1, damage)
    rebuilt = place.index.rebuild(NOW_S)
    assert rebuilt == Rebuilt(recovered=(ids[1],))
    assert place.known() == dict(enumerate(ids))
    assert place.index.rebuild(NOW_S) == Rebuilt()


def test_nothing_is_guessed_of_an_unreadable_record(place: Place) -> None:
    ids = [fresh() for _ in range(4)]
    for lease_id in ids:
        place.leases.create(place.id, lease_id)
    where = [place.index.at(number, ids[number]) for number in range(4)]
    place.areas.write_resource(replace(where[0], resource=ids[3]))  # of a lease that is elsewhere
    place.areas.write_resource(replace(where[1], lockspace=DomainId(new_id())))  # of another domain
    place.areas.write_resource(replace(where[2], lockspace=DomainId(""), resource=""))  # of nobody
    for number in range(3):
        place.write(number, b"\xff" * 64)
    place.write(2000, b"\xff" * 64)  # beyond the end
    assert place.index.rebuild(NOW_S) == Rebuilt(freed=(0, 1, 2, 2000), cleared=(0, 1))
    assert place.known() == {3: ids[3]}


def test_leases_are_made_to_fit_the_readable_records(place: Place) -> None:
    ids = [fresh() for _ in range(4)]
    for lease_id in ids:
        place.leases.create(place.id, lease_id)
    where = [place.index.at(number, ids[number]) for number in range(4)]
    place.areas.write_resource(replace(where[0], lockspace=DomainId(""), resource=""))
    place.areas.write_resource(replace(where[1], resource=new_id()))
    stray = fresh()
    place.leases.create(place.id, stray)
    place.index.remove_record(stray)  # its lease stays
    second = xleases.Record(3, ids[2], updating=False)
    place.write(3, xleases._encode_record(second, place.domain.geometry))  # a second of one
    rebuilt = place.index.rebuild(NOW_S)
    assert rebuilt == Rebuilt(rewritten=(ids[0], ids[1]), freed=(3,), cleared=(3, 4))
    assert place.known() == dict(enumerate(ids[:3]))
    assert [place.at(number) for number in range(5)] == [*ids[:3], None, None]


def test_lost_header_is_written_anew(place: Place) -> None:
    lease_id = fresh()
    place.leases.create(place.id, lease_id)
    area = place.domain.backend.area(Area.XLEASES)
    area.write(MIB, bytes(512))
    with pytest.raises(Damaged):
        place.leases.info(place.id, lease_id)
    assert place.index.rebuild(NOW_S + 1) == Rebuilt()
    assert place.index.read().time_s == NOW_S + 1
    assert place.known() == {0: lease_id}


def test_domain_without_external_leases_says_so(place: Place) -> None:
    for domain in (replace(place.domain, kind=StorageType.LOCALFS), replace(place.domain, version=3)):
        with pytest.raises(UnsupportedOperation):
            LeaseIndex(domain, place.areas)


def test_lease_with_a_value_needs_a_joined_host(place: Place) -> None:
    place.domain.lock.leave(1)
    assert place.domain.lock.membership(1) is Membership.NO
    kind, lease_id = place.leases.kinds().add, fresh()
    wanted = kind.decide(AddLease(domain_id=place.id, lease_id=lease_id, job=JOB))
    steps = kind.plan(wanted)
    for step in steps[:2]:
        step.do(None)
    with pytest.raises(LeaseFailed):
        steps[2].do(None)
    for step in reversed(steps[:3]):
        step.undo(None)
    assert place.known() == {}


def test_full_index_refuses(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: xleases.Index) -> int:
        raise NoSpace("adding a lease", "all records are in use")

    monkeypatch.setattr(xleases.Index, "first_free", full)
    with pytest.raises(NoSpace) as refused:
        place.leases.create(place.id, fresh())
    assert isinstance(refused.value, VdsmError)
    assert place.known() == {}
