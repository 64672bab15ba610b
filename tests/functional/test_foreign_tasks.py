"""Tasks that hosts of the original left on the master: those of its sample, and one cut off at each of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from domain_parts import Place
from image_domains import MIB
from pool_worlds import POOL, Host, places
from storage_domains import NOW_S, SAMPLE_ID, unpack_sample
from vdsm.storage.backend import Backend
from vdsm.storage.executor import carry_out
from vdsm.storage.formats.tasks import Job, Outcome, Rollback, TaskRecord, TaskState, encode_task
from vdsm.storage.ids import DomainId, ImageId, PoolId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.mover import QemuImages
from vdsm.storage.kinds import AttachedStatus, VolumeFormat, VolumeKind
from vdsm.storage.plans import NewVolume
from vdsm.storage.plans import create as plan_create
from vdsm.storage.pool.pool_errors import NoSuchTask
from vdsm.storage.steps import Change

ACTIVE = AttachedStatus.ACTIVE
TASK = "0b000000-0000-4000-8000-000000000001"
SAMPLE_POOL = PoolId("5bb00001-1001-4000-8000-0000000010ca")


class Left:
    """A pool's master, with volumes and what another SPM left of making one more."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.domain_id: DomainId = host.new_domain(host.places[0])
        host.pools.create(POOL, "a pool", self.domain_id, 1)
        self.backend: Backend = host.domains.find(self.domain_id).backend
        self.base = self.add(VolumeRef(self.domain_id, ImageId(new_id()), VolumeId(new_id())))
        self.image = f"{host.domains.find(self.domain_id).path}/images/{self.base.image_id}"
        self.new = VolumeRef(self.domain_id, self.base.image_id, VolumeId(new_id()))
        self.before = (self.backend.images(), self.backend.inventory())

    def add(self, volume: VolumeRef, parent: VolumeRef | None = None, upto: int | None = None) -> VolumeRef:
        """Make a volume, or only the first steps of it."""
        how = VolumeFormat.COW if parent else VolumeFormat.RAW
        wanted = NewVolume(volume, MIB, NOW_S, format=how, parent=parent)
        mover = QemuImages(self.host.domains.find)
        for step in plan_create(self.backend.images().images, wanted)[:upto]:
            carry_out(step, self.backend, mover)
        return volume

    def leave(self, state: TaskState, *rollbacks: Rollback, suffix: str = "", outcome: Outcome | None = None) -> Path:
        """Put a task's directory where another SPM would have written it."""
        tasks = Path(self.host.domains.find(self.domain_id).master_path) / "tasks"
        found = TaskRecord(TASK, "createVolume", state, str(tasks), (Job("createVolume"),), rollbacks, outcome)
        home = tasks / f"{TASK}{suffix}"
        home.mkdir(parents=True)
        for name, data in encode_task(found).items():
            (home / name).write_bytes(data)
        return home

    def rollbacks(self) -> list[Rollback]:
        """Those of createVolume on a leaf, in the order in which the original notes them."""
        path, ids = f"{self.image}/{self.new.volume_id}", (self.domain_id, self.new.image_id, self.new.volume_id)
        file = "fileVolume", "FileVolume"
        return [
            Rollback("sentinel", *file, "startCreateVolumeRollback", ids),
            Rollback("parent", "volume", "Volume", "parentVolumeRollback", (*ids[:2], self.base.volume_id)),
            Rollback("half", *file, "halfbakedVolumeRollback", (self.domain_id, self.new.volume_id, path)),
            Rollback("metadata", *file, "createVolumeMetadataRollback", (path,)),
        ]

    def start(self) -> None:
        self.host.pools.connect(POOL, 1, self.domain_id, 1, {self.domain_id: ACTIVE})
        assert self.host.become_spm().result == "success"


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    host = Host(tmp_path, places(tmp_path, 1))
    yield Left(host)
    host.end()


@pytest.mark.parametrize("suffix", ["", ".temp", ".backup"])
@pytest.mark.parametrize(("made", "noted"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_volume_that_was_being_made_is_gone(left: Left, made: int, noted: int, suffix: str) -> None:
    left.add(left.new, left.base, upto=made)
    home = left.leave(TaskState.RUNNING, *left.rollbacks()[:noted], suffix=suffix)
    left.start()
    assert (left.backend.images(), left.backend.inventory()) == left.before
    (status,) = left.host.tasks.statuses()
    assert (status.id, status.state, status.result, status.code, status.message) == (
        *(TASK, "finished", "cleanSuccess", 0, "Task is initializing"),
    )
    assert left.host.tasks.infos()[0].verb == "createVolume"
    names = [path.name for path in home.parent.iterdir()]
    assert names == [TASK] if suffix == "" else TASK in names
    left.host.tasks.clear(TASK)
    assert list(home.parent.iterdir()) == []
    with pytest.raises(NoSuchTask):
        left.host.tasks.clear(TASK)


def test_done_task_is_told_and_can_be_taken_back(left: Left) -> None:
    left.add(left.new, left.base)
    ids = (left.domain_id, left.new.image_id, left.new.volume_id)
    undo = Rollback(
        "Create volume rollback", "fileVolume", "FileVolume", "createVolumeRollback", ("/pool", *ids, left.image)
    )
    left.leave(
        TaskState.FINISHED,
        undo,
        outcome=Outcome(0, "1 jobs completed successfully", f"{{'uuid': '{left.new.volume_id}'}}"),
    )
    left.start()
    (status,) = left.host.tasks.statuses()
    assert (status.result, status.message) == ("success", "1 jobs completed successfully")
    assert left.backend.volume(left.base).kind is VolumeKind.INTERNAL
    left.host.tasks.revert(TASK)
    assert left.backend.images() == left.before[0]
    assert left.host.tasks.status(TASK).result == "cleanSuccess"


def test_capacity_is_found_out_after_a_cut_off_extension(left: Left) -> None:
    left.backend.grow(left.base, 3 * MIB)
    ids = (left.domain_id, left.base.image_id, left.base.volume_id)
    left.leave(TaskState.RUNNING, Rollback("extend", "volume", "Volume", "extendSizeFinalize", ids))
    left.start()
    assert left.backend.volume(left.base).capacity == 3 * MIB


def test_clone_that_was_being_made_is_gone(left: Left) -> None:
    left.backend.rewrite(left.base, Change(left.base, kind=VolumeKind.SHARED).changed(left.backend.volume(left.base)))
    before = left.backend.images(), left.backend.inventory()
    image = ImageId(new_id())
    left.backend.share(left.base, image)
    home = f"{left.image.rsplit('/', 1)[0]}/{image}"
    left.leave(
        TaskState.RUNNING,
        Rollback("image", "sd", "StorageDomain", "create_image_rollback", (home,)),
        Rollback("share", "fileVolume", "FileVolume", "shareVolumeRollback", (f"{home}/{left.base.volume_id}",)),
    )
    left.start()
    assert (left.backend.images(), left.backend.inventory()) == before


def test_path_of_a_stranger_deletes_nothing(left: Left) -> None:
    """Of a path only the ids count, and a volume that is whole is no half-made one."""
    path = f"/elsewhere/{left.domain_id}/images/{left.base.image_id}/{left.base.volume_id}"
    ids = (left.domain_id, left.base.volume_id, path)
    left.leave(
        TaskState.RUNNING,
        Rollback("half", "fileVolume", "FileVolume", "halfbakedVolumeRollback", ids),
        Rollback("share", "fileVolume", "FileVolume", "shareVolumeRollback", (path,)),
    )
    left.start()
    assert (left.backend.images(), left.backend.inventory()) == left.before


@pytest.mark.parametrize("params", [("no path",), ("/a/../../etc/passwd",), ()])
def test_senseless_rollback_leaves_all_as_it_is(left: Left, params: tuple[str, ...]) -> None:
    bad = Rollback("metadata", "fileVolume", "FileVolume", "createVolumeMetadataRollback", params)
    left.leave(TaskState.RUNNING, bad)
    left.start()
    assert (left.backend.images(), left.backend.inventory()) == left.before
    assert left.host.tasks.status(TASK).state == "cleaning"


def test_task_that_is_not_understood_is_left(left: Left) -> None:
    home = left.leave(TaskState.RUNNING, Rollback("news", "volume", "Volume", "somethingNew", ("a",)))
    other = home.with_name("0b000000-0000-4000-8000-000000000002")
    other.mkdir()
    (other / f"{other.name}.task").write_bytes(b"\xff\xfe no text")
    before = {path: path.read_bytes() for path in home.parent.rglob("*") if path.is_file()}
    left.start()
    assert left.host.tasks.statuses() == []
    assert {path: path.read_bytes() for path in home.parent.rglob("*") if path.is_file()} == before


def test_stray_state_is_failed(left: Left) -> None:
    left.leave(TaskState.INIT)
    left.start()
    assert left.host.tasks.status(TASK).result == "cleanFailure"


def test_originals_sample_is_taken_over(tmp_path: Path) -> None:
    place = Place.of(tmp_path / "sample")
    unpack_sample(Path(place.path))
    host = Host(tmp_path, [place])
    host.pools.connect(SAMPLE_POOL, 1, SAMPLE_ID, 1, {SAMPLE_ID: ACTIVE})
    assert host.become_spm(SAMPLE_POOL).result == "success"
    found = {status.id: status for status in host.tasks.statuses()}
    assert len(found) == 8
    assert {status.state for status in found.values()} == {"finished"}
    recovered = found["442f0c8c-dfda-4dc5-95b5-60c2c859c1d7"]
    # Its number was only in the memory of the host that did it.
    assert (recovered.result, recovered.code) == ("cleanSuccess", 0)
    for ident in found:
        host.tasks.clear(ident)
    assert host.tasks.statuses() == []
    assert host.metadata(SAMPLE_ID).pools == (SAMPLE_POOL,)
    host.end()
