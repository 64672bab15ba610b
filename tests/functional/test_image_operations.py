"""Operations on images on real files: content by a model, and what happens when the storage refuses."""

from __future__ import annotations

import errno
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_model import BLOCK, Blocks, Player, shown
from image_worlds import DOMAIN, MIB, World, make_world, open_world, volume
from needs import needs
from vdsm.base.errors import VdsmError
from vdsm.operations.journal import MemoryJournal
from vdsm.operations.manager import Operations
from vdsm.operations.records import OperationView, Phase
from vdsm.storage.connection.repository import Repository
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import IllegalVolume, NoSpace, NoSuchImage, NoSuchVolume, StorageFailed, VolumeBusy
from vdsm.storage.executor import carry_out
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.ids import PoolId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.image_kinds import DeleteImage
from vdsm.storage.images.preparing import Preparer
from vdsm.storage.images.volume_kinds import CreateVolume, DeleteVolumes, ExtendVolume
from vdsm.storage.kinds import Allocation, Legality, VolumeFormat, VolumeKind
from vdsm.storage.steps import Change

pytestmark = needs("program:qemu-img", "program:qemu-io")

BASE, LEAF = volume(1, 1), volume(1, 2)
TEMPLATE = volume(2, 1)


class FileBench:
    """``image_model.Bench`` on real files, with QEMU's own tools."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.domain: Domain = world.domain
        self.kinds = world.kinds
        self.jobs = world.jobs

    def write(self, ref: VolumeRef, block: int, value: int) -> None:
        self.world.fill(ref, value, offset=block * BLOCK, length=BLOCK)

    def see(self, ref: VolumeRef) -> Blocks:
        path = self.world.path(ref)
        layout = self.domain.backend.volume(ref).format.qemu
        with tempfile.NamedTemporaryFile() as copy:
            argv = ["qemu-img", "convert", "-f", layout, "-O", "raw", path, copy.name]
            subprocess.run(argv, check=True, capture_output=True, timeout=60)
            return shown(Path(copy.name).read_bytes())


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    world.fill(world.make(BASE, format=VolumeFormat.RAW), 1)
    world.make(LEAF, BASE)
    world.fill(world.make(TEMPLATE), 2)
    return world


def begun(world: World) -> Operations:
    operations = world.operations(MemoryJournal())
    operations.resume()
    return operations


def run(world: World, kind: Any, arguments: Any) -> OperationView:
    operations = begun(world)
    try:
        return operations.wait(operations.submit(kind, arguments).id, 60)
    finally:
        assert operations.stop(30)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 32))
def test_random_operations_agree_with_the_model(seed: int) -> None:
    with tempfile.TemporaryDirectory() as base:
        bench = FileBench(make_world(Path(base)))
        operations = begun(bench.world)
        Player(bench, operations, seed).play(12)
        assert operations.stop(30)


# The storage refuses


class Refusing(LocalFiles):
    """Refuses one change of all, or all from one on."""

    def __init__(self, turn: int, number: int, *, lasting: bool) -> None:
        self.turn, self.number, self.lasting, self.passed = turn, number, lasting, 0

    def pass_(self, path: str) -> None:
        self.passed += 1
        if self.passed == self.turn or (self.lasting and self.turn and self.passed > self.turn):
            raise OSError(self.number, "refused", path)


GROWING = ("create", "replace", "write_at", "allocate", "mkdir", "link")
CHANGING = (*GROWING, "truncate", "rmdir", "rename", "unlink", "chmod")


def refusing(names: tuple[str, ...]) -> type[Refusing]:
    def refuse(name: str) -> Callable[..., Any]:
        def call(self: Refusing, path: str, *args: Any, **kwargs: Any) -> Any:
            if name != "write_at" or not path.endswith(".meta"):  # which takes no room
                self.pass_(path)
            return getattr(LocalFiles, name)(self, path, *args, **kwargs)

        return call

    return type("RefusingSome", (Refusing,), {name: refuse(name) for name in names})


def picture(base: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(base)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(base.rglob("*"))
    }


NEW = {"domain_id": DOMAIN, "capacity": MIB}
TO_MAKE = {
    "raw": CreateVolume(
        **NEW,
        image_id=volume(5, 1).image_id,
        volume_id=volume(5, 1).volume_id,
        format=VolumeFormat.RAW,
        allocation=Allocation.PREALLOCATED,
    ),
    "snapshot": CreateVolume(**NEW, image_id=LEAF.image_id, volume_id=volume(1, 3).volume_id, parent_id=LEAF.volume_id),
    "clone": CreateVolume(
        **NEW,
        image_id=volume(5, 1).image_id,
        volume_id=volume(5, 1).volume_id,
        parent_image_id=TEMPLATE.image_id,
        parent_id=TEMPLATE.volume_id,
    ),
}


@pytest.mark.parametrize("name", TO_MAKE)
def test_full_file_system_at_each_write_leaves_nothing(world: World, tmp_path: Path, name: str) -> None:
    before = picture(tmp_path / "mount")
    turn = 0
    while True:
        turn += 1
        files = refusing(GROWING)(turn, errno.ENOSPC, lasting=True)
        view = run(opened := open_world(tmp_path, files), opened.kinds.create_volume, TO_MAKE[name])
        if files.passed < turn:
            break
        assert (view.phase, view.fault and view.fault.code) == (Phase.UNDONE, NoSpace.code), turn
        assert picture(tmp_path / "mount") == before, turn
    assert turn >= 4
    assert view.phase is Phase.DONE


def test_volumes_are_deleted_from_a_full_file_system(world: World, tmp_path: Path) -> None:
    files = refusing(GROWING)(1, errno.ENOSPC, lasting=True)
    opened = open_world(tmp_path, files)
    ids = {"domain_id": DOMAIN, "image_id": LEAF.image_id}
    assert (
        run(opened, opened.kinds.delete_volumes, DeleteVolumes(**ids, volume_ids=[LEAF.volume_id])).phase is Phase.DONE
    )
    assert opened.domain.backend.volume(BASE).kind is VolumeKind.LEAF
    assert run(opened, opened.kinds.delete_image, DeleteImage(**ids)).phase is Phase.DONE
    assert opened.domain.backend.inventory().images == {TEMPLATE.image_id: (TEMPLATE.volume_id,)}


def test_read_only_storage_leaves_everything_as_it_was(world: World, tmp_path: Path) -> None:
    before = picture(tmp_path / "mount")
    ids = {"domain_id": DOMAIN, "image_id": LEAF.image_id}
    files = refusing(CHANGING)(1, errno.EROFS, lasting=True)
    opened = open_world(tmp_path, files)
    for kind, arguments in (
        (opened.kinds.create_volume, TO_MAKE["raw"]),
        (opened.kinds.delete_volumes, DeleteVolumes(**ids, volume_ids=[LEAF.volume_id])),
        (opened.kinds.extend_volume, ExtendVolume(**ids, volume_id=BASE.volume_id, capacity=2 * MIB)),
        (opened.kinds.resize_volume, ExtendVolume(**ids, volume_id=LEAF.volume_id, capacity=2 * MIB)),
    ):
        files.passed = 0
        view = run(opened, kind, arguments)
        assert view.fault is not None, kind.name
        assert view.fault.code == StorageFailed.code, kind.name
        assert picture(tmp_path / "mount") == before, kind.name


def test_deletion_that_the_storage_refuses_is_finished_later(world: World, tmp_path: Path) -> None:
    files = refusing(CHANGING)(3, errno.EIO, lasting=False)
    opened = open_world(tmp_path, files)
    operations = begun(opened)
    given = DeleteImage(domain_id=DOMAIN, image_id=LEAF.image_id)
    view = operations.wait(operations.submit(opened.kinds.delete_image, given).id, 60)
    assert view.phase is Phase.UNFINISHED
    with pytest.raises(NoSuchImage):
        opened.domain.backend.image(LEAF.image_id)
    operations.settle(view.id)
    assert operations.wait(view.id, 60).phase is Phase.DONE
    assert opened.domain.backend.inventory().removed == ()
    assert operations.stop(30)


def test_two_images_are_made_at_once(world: World) -> None:
    """Nothing of one is in the other's way."""
    operations = begun(world)
    refs = [volume(number, 1) for number in range(3, 9)]
    threads = [
        threading.Thread(
            target=operations.submit,
            args=(world.kinds.create_volume, CreateVolume(**NEW, image_id=ref.image_id, volume_id=ref.volume_id)),
        )
        for ref in refs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {operations.wait(view.id, 60).phase for view in operations.views()} == {Phase.DONE}
    assert operations.stop(30)


def test_volume_that_somebody_has_open_is_not_deleted(world: World) -> None:
    leaf = world.path(LEAF)
    argv = ["qemu-io", "-f", "qcow2", leaf]
    ids = {"domain_id": DOMAIN, "image_id": LEAF.image_id}
    wanted = (
        (world.kinds.delete_volumes, DeleteVolumes(**ids, volume_ids=[LEAF.volume_id])),
        (world.kinds.delete_image, DeleteImage(**ids)),
    )
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        try:
            assert user.stdin is not None
            assert user.stdout is not None
            user.stdin.write(b"read 0 512\n")
            user.stdin.flush()
            while b"ops" not in user.stdout.readline():
                assert user.poll() is None
            for kind, arguments in wanted:
                view = run(world, kind, arguments)
                assert (view.phase, view.fault and view.fault.code) == (Phase.UNDONE, VolumeBusy.code)
        finally:
            user.kill()
    assert world.domain.backend.volume(LEAF).legality is Legality.LEGAL
    assert run(world, *wanted[1]).phase is Phase.DONE


# Prepared


@pytest.fixture
def preparer(world: World, tmp_path: Path) -> Preparer:
    return Preparer(world.find, Repository(run=str(tmp_path / "run")))


def test_image_is_prepared_as_the_original_does(world: World, preparer: Preparer, tmp_path: Path) -> None:
    clone = world.make(volume(3, 1), TEMPLATE)
    world.path(clone).chmod(0o600)
    link = tmp_path / "run" / DOMAIN / clone.image_id
    found = preparer.prepare(None, DOMAIN, clone.image_id, clone.volume_id)
    assert found.path == f"{link}/{clone.volume_id}"
    assert link.is_symlink()
    assert link.resolve() == world.path(clone).parent.resolve()
    assert (found.is_block, found.format) == (False, VolumeFormat.COW)
    assert {item.volume.volume_id: item.path for item in found.volumes} == {
        clone.volume_id: str(world.path(clone)),
        TEMPLATE.volume_id: str(world.path(clone).parent / TEMPLATE.volume_id),
    }
    assert world.path(clone).stat().st_mode & 0o777 == 0o660
    assert {item.lease for item in found.volumes} == {None}
    in_pool = preparer.prepare(PoolId(new_id()), DOMAIN, clone.image_id, clone.volume_id)
    assert in_pool.path == str(world.path(clone))
    preparer.teardown(DOMAIN, clone.image_id)
    preparer.teardown(DOMAIN, clone.image_id)
    assert not link.parent.exists()


def test_wrong_links_are_replaced(world: World, preparer: Preparer, tmp_path: Path) -> None:
    link = tmp_path / "run" / DOMAIN / LEAF.image_id
    link.parent.mkdir(parents=True)
    link.symlink_to("/nowhere")
    preparer.prepare(None, DOMAIN, LEAF.image_id, LEAF.volume_id)
    assert link.resolve() == world.path(LEAF).parent.resolve()


def test_illegal_volumes_are_prepared_only_when_allowed(world: World, preparer: Preparer, tmp_path: Path) -> None:
    carry_out(Change(BASE, legality=Legality.ILLEGAL), world.domain.backend, world.mover)
    with pytest.raises(IllegalVolume) as refused:
        preparer.prepare(None, DOMAIN, LEAF.image_id, LEAF.volume_id)
    assert (refused.value.code, refused.value.volume_id) == (227, BASE.volume_id)
    assert not list((tmp_path / "run").rglob("*"))
    assert preparer.prepare(None, DOMAIN, LEAF.image_id, LEAF.volume_id, allow_illegal=True).volumes


def test_unknown_volume_is_not_prepared(world: World, preparer: Preparer) -> None:
    with pytest.raises(NoSuchVolume):
        preparer.prepare(None, DOMAIN, LEAF.image_id, VolumeId(new_id()))
    with pytest.raises(NoSuchImage):
        preparer.prepare(None, DOMAIN, volume(9, 1).image_id, LEAF.volume_id)


def test_capacity_that_a_resize_left_is_repaired(world: World, preparer: Preparer) -> None:
    carry_out(Change(LEAF, capacity=0), world.domain.backend, world.mover)
    world.mover.resize(LEAF, 3 * MIB)
    preparer.prepare(None, DOMAIN, LEAF.image_id, LEAF.volume_id)
    assert world.domain.backend.volume(LEAF).capacity == 3 * MIB
    assert world.domain.backend.volume(BASE).capacity == MIB


def test_image_that_cannot_be_read_is_not_left_prepared(world: World, preparer: Preparer, tmp_path: Path) -> None:
    world.path(LEAF).write_bytes(b"no header")
    with pytest.raises(VdsmError) as refused:
        preparer.prepare(None, DOMAIN, LEAF.image_id, LEAF.volume_id)
    assert refused.value.name == "image_refused"
    assert not list((tmp_path / "run").rglob("*"))


def test_what_an_upload_has_left_is_prepared_for_another(world: World, preparer: Preparer) -> None:
    world.path(LEAF).write_bytes(b"half a header")
    carry_out(Change(LEAF, legality=Legality.ILLEGAL), world.domain.backend, world.mover)
    found = preparer.prepare(None, DOMAIN, LEAF.image_id, LEAF.volume_id, allow_illegal=True)
    assert Path(found.path).read_bytes() == b"half a header"
