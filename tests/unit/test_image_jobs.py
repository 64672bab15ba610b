"""The host's storage jobs, in memory, under leases of a lock twin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from image_memory import MemoryWorld, chain, create
from vdsm.base.errors import AlreadyExists, Failed, WrongState
from vdsm.operations.journal import JournalStore, MemoryJournal
from vdsm.operations.manager import NoSuchOperation
from vdsm.operations.records import JobStatus
from vdsm.storage.formats.volume import VolumeMetadata
from vdsm.storage.ids import VolumeRef, new_id
from vdsm.storage.images.job_kinds import AmendVolume, BitmapJob, MergeJob, UpdateVolume, VolumeJob
from vdsm.storage.images.jobs import Jobs, JobView
from vdsm.storage.kinds import Legality, StorageType, VolumeFormat, VolumeKind
from vdsm.storage.locks.lock_twin import SharedDisk, TwinHost, TwinLock
from vdsm.storage.steps import Change


@pytest.fixture
def world() -> MemoryWorld:
    """A shared domain with leases, that the host has joined."""
    world = MemoryWorld(StorageType.NFS)
    world.lock.format()
    world.lock.join(1, wait_s=5)
    return world


@contextmanager
def jobs_of(world: MemoryWorld, journal: JournalStore | None = None, kept_s: float = 3600.0) -> Iterator[Jobs]:
    jobs = Jobs(world.jobs.all(), journal or MemoryJournal(), world.locks, kept_s=kept_s)
    jobs.resume()
    yield jobs
    assert jobs.stop(30)


def leased(world: MemoryWorld, ref: VolumeRef) -> VolumeRef:
    """Format the volume's lease, as the real writer of leases does."""
    lease = world.backend.volume_lease(ref)
    assert lease is not None
    world.host.write_resource(lease)
    return ref


def on(ref: VolumeRef) -> dict[str, str]:
    return {"domain_id": ref.domain_id, "image_id": ref.image_id, "volume_id": ref.volume_id}


def run(jobs: Jobs, kind: object, arguments: object) -> JobView:
    return jobs.wait(jobs.submit(kind, arguments, new_id()).id, 30)  # type: ignore[type-var,arg-type]


def test_merge_moves_data_and_raises_the_generation(world: MemoryWorld) -> None:
    base, top = (leased(world, ref) for ref in chain(world, 2))
    world.write(top, 3, 9)
    given = MergeJob(
        domain_id=base.domain_id,
        image_id=base.image_id,
        base_id=base.volume_id,
        top_id=top.volume_id,
        base_generation=0,
        merge_bitmaps=True,
    )
    with jobs_of(world) as jobs:
        done = run(jobs, world.jobs.merge, given)
        assert done.answer() == {
            "id": done.id,
            "status": "done",
            "description": "merge_subchain",
            "job_type": "storage",
            "progress": 100.0,
        }
        assert world.mover.blocks[base.volume_id] == {3: 9}
        assert world.mover.called == [("merge", top, base)]
        assert world.backend.volume(base).generation == 1
        again = run(jobs, world.jobs.merge, given)
        assert (again.status, again.error and again.error.code) == (JobStatus.FAILED, 911)
        assert again.answer()["error"]["code"] == 911


def test_lease_is_held_while_the_job_runs_and_given_back(world: MemoryWorld) -> None:
    ref = leased(world, create(world, world.ref(1, 1)))
    lease = world.backend.volume_lease(ref)
    assert lease is not None
    held: list[bool] = []
    world.mover.amend = lambda *_: held.append(world.lock.holds(lease))  # type: ignore[method-assign,assignment]
    with jobs_of(world) as jobs:
        assert run(jobs, world.jobs.amend_volume, AmendVolume(**on(ref), compatibility="1.1")).status is JobStatus.DONE
        assert held == [True]
        assert not world.lock.holds(lease)
        world.mover.fails = Failed("adding", "no")
        assert run(jobs, world.jobs.add_bitmap, BitmapJob(**on(ref), bitmap="b")).status is JobStatus.FAILED
        assert not world.lock.holds(lease)


def test_job_is_refused_while_another_host_has_the_lease(world: MemoryWorld) -> None:
    ref = leased(world, create(world, world.ref(1, 1)))
    lease = world.backend.volume_lease(ref)
    assert lease is not None
    other = other_lock(world)
    other.join(2, wait_s=5)
    other.acquire(lease, 2)
    with jobs_of(world) as jobs:
        view = run(jobs, world.jobs.clear_bitmaps, BitmapJob(**on(ref)))
        assert (view.status, view.error and view.error.code) == (JobStatus.FAILED, 651)
    assert world.mover.called == []
    assert world.backend.volume(ref).generation == 0


def other_lock(world: MemoryWorld) -> TwinLock:
    paths = (f"/memory/{world.domain.id}/ids", f"/memory/{world.domain.id}/leases")
    return TwinLock(TwinHost(world.host.disk), world.domain.id, paths, world.domain.geometry)


def test_host_that_has_not_joined_gets_no_lease() -> None:
    world = MemoryWorld(StorageType.NFS, host=TwinHost(SharedDisk()))
    world.lock.format()
    ref = leased(world, create(world, world.ref(1, 1)))
    with jobs_of(world) as jobs:
        view = run(jobs, world.jobs.clear_bitmaps, BitmapJob(**on(ref)))
        assert (view.status, view.error and view.error.name) == (JobStatus.FAILED, "lease_failed")


def test_volume_is_updated_in_one_write(world: MemoryWorld) -> None:
    ref = leased(world, create(world, world.ref(1, 1)))
    with jobs_of(world) as jobs:
        given = UpdateVolume(
            **on(ref), requested=0, legality=Legality.ILLEGAL, description="new", new_generation=17, shared=True
        )
        assert run(jobs, world.jobs.update_volume, given).status is JobStatus.DONE
        made = world.backend.volume(ref)
        assert (made.legality, made.description, made.generation) == (Legality.ILLEGAL, "new", 17)
        assert made.kind is VolumeKind.SHARED
        for wrong, code in (
            ({"requested": 16}, 911),
            ({"requested": 17, "legality": Legality.ILLEGAL}, 235),
            ({"shared": True}, 235),
        ):
            view = run(jobs, world.jobs.update_volume, UpdateVolume(**on(ref), **wrong))
            assert (view.status, view.error and view.error.code) == (JobStatus.FAILED, code)
        # The same generation again is written, too.
        given = UpdateVolume(**on(ref), description="newer", new_generation=17)
        assert run(jobs, world.jobs.update_volume, given).status is JobStatus.DONE
        assert world.backend.volume(ref).description == "newer"


def test_jobs_on_one_volume_refuse_what_it_is_not(world: MemoryWorld) -> None:
    raw = leased(world, create(world, world.ref(1, 1), format=VolumeFormat.RAW))
    with jobs_of(world) as jobs:
        wrong = [
            (world.jobs.amend_volume, AmendVolume(**on(raw), compatibility="1.1"), 2009),
            (world.jobs.add_bitmap, BitmapJob(**on(raw), bitmap="b"), 2009),
            (world.jobs.remove_bitmap, BitmapJob(**on(world.ref(1, 9)), bitmap="b"), 201),
            (world.jobs.sparsify_volume, VolumeJob(**on(raw), requested=5), 911),
        ]
        for kind, given, code in wrong:
            view = run(jobs, kind, given)
            assert (view.status, view.error and view.error.code) == (JobStatus.FAILED, code), kind.name
    assert world.mover.called == []


def test_job_goes_on_after_a_restart_unless_others_have_taken_over(world: MemoryWorld) -> None:
    for taken_over in (False, True):
        world.mover.blocks.clear()
        base, top = (leased(world, ref) for ref in two(world, 3 if taken_over else 2))
        world.write(top, 1, 5)
        journal, ids = MemoryJournal(), {"domain_id": base.domain_id, "image_id": base.image_id}
        reached, go_on = threading.Event(), threading.Event()

        def point(name: str, reached: threading.Event = reached, go_on: threading.Event = go_on) -> None:
            if name == "before commit the data":
                reached.set()
                go_on.wait(30)

        first = Jobs(world.jobs.all(), journal, world.locks, point=point)
        first.resume()
        given = MergeJob(**ids, base_id=base.volume_id, top_id=top.volume_id)
        job = first.submit(world.jobs.merge, given, new_id())
        assert reached.wait(30)
        left = MemoryJournal()
        for record in journal.load()[0]:
            left.write(record)
        first.operations.stop(0)
        go_on.set()
        assert first.operations.stop(30)
        if taken_over:
            world.backend.rewrite(base, replace_generation(world, base, 5))
        with jobs_of(world, left) as second:
            view = second.wait(job.id, 30)
            if taken_over:
                assert (view.status, view.error and view.error.code) == (JobStatus.FAILED, 911)
                assert base.volume_id not in world.mover.blocks
            else:
                assert view.status is JobStatus.DONE
                assert world.mover.blocks[base.volume_id] == {1: 5}


def two(world: MemoryWorld, image: int) -> list[VolumeRef]:
    base = create(world, world.ref(image, 1))
    return [base, create(world, world.ref(image, 2), base)]


def replace_generation(world: MemoryWorld, ref: VolumeRef, generation: int) -> VolumeMetadata:
    return Change(ref, generation=generation).changed(world.backend.volume(ref))


def test_jobs_are_told_of_for_a_while_and_then_forgotten(world: MemoryWorld) -> None:
    ref = leased(world, create(world, world.ref(1, 1)))
    with jobs_of(world) as jobs:
        done = run(jobs, world.jobs.clear_bitmaps, BitmapJob(**on(ref)))
        assert set(jobs.views()) == {done.id}
        assert set(jobs.views([done.id, new_id()])) == {done.id}
        assert jobs.views([new_id()]) == {}
        with pytest.raises(AlreadyExists):
            jobs.submit(world.jobs.clear_bitmaps, BitmapJob(**on(ref)), done.id)
        with pytest.raises(WrongState):
            jobs.abort(done.id)
        jobs.delete(done.id)
        with pytest.raises(NoSuchOperation):
            jobs.abort(done.id)
    with jobs_of(world, kept_s=0) as jobs:
        run(jobs, world.jobs.clear_bitmaps, BitmapJob(**on(ref)))
        threading.Event().wait(0.01)
        assert jobs.views() == {}


def test_waiting_job_is_aborted(world: MemoryWorld) -> None:
    ref = leased(world, create(world, world.ref(1, 1)))
    given = BitmapJob(**on(ref))
    with jobs_of(world) as jobs, world.locks.hold("test", world.jobs.clear_bitmaps.wants(given), timeout_s=5):
        job = jobs.submit(world.jobs.clear_bitmaps, given, new_id())
        assert job.status is JobStatus.PENDING
        assert "progress" not in job.answer()
        jobs.abort(job.id)
        ended = jobs.wait(job.id, 30)
        assert ended.status is JobStatus.ABORTED
        assert "error" not in ended.answer()
    assert world.mover.called == []
