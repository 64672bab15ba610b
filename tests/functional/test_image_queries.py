"""Questions about images: on files, through a helper process, and in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from image_memory import MemoryWorld, create
from image_worlds import DOMAIN, MIB, World, make_world, open_world, volume
from needs import needs
from vdsm.storage.backend import DataFacts
from vdsm.storage.clusterlock import LeaseState
from vdsm.storage.errors import LeaseFailed, NoSuchDomain, NoSuchVolume
from vdsm.storage.files import names
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.files.names import ImageNames
from vdsm.storage.ids import DomainId, ImageId, VolumeId, VolumeRef, new_id
from vdsm.storage.images.image_queries import ImageQueries
from vdsm.storage.kinds import StorageType, VolumeFormat
from vdsm.storage.oop.pool import HelperPool

pytestmark = needs("program:qemu-img")

BASE, LEAF, TEMPLATE, CLONE = volume(1, 1), volume(1, 2), volume(2, 1), volume(3, 1)


@pytest.fixture(scope="module")
def helpers() -> Iterator[HelperPool]:
    pool = HelperPool()
    yield pool
    assert pool.stop(30)


@pytest.fixture(params=["local", "helper"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    make_world(tmp_path)
    files = LocalFiles() if request.param == "local" else request.getfixturevalue("helpers").of(str(tmp_path))
    world = open_world(tmp_path, files)
    world.make(BASE, format=VolumeFormat.RAW, description="the base", sequence=4)
    world.make(LEAF, BASE)
    world.make(TEMPLATE)
    world.make(CLONE, TEMPLATE)
    return world


def queries(world: World) -> ImageQueries:
    return ImageQueries(world.find)


def test_lists_are_of_what_is_there(world: World) -> None:
    asked = queries(world)
    assert asked.images(DOMAIN) == [BASE.image_id, TEMPLATE.image_id, CLONE.image_id]
    assert asked.volumes(DOMAIN) == [BASE.volume_id, LEAF.volume_id, TEMPLATE.volume_id, CLONE.volume_id]
    assert asked.volumes(DOMAIN, CLONE.image_id) == [TEMPLATE.volume_id, CLONE.volume_id]
    assert asked.volumes(DOMAIN, ImageId(new_id())) == []
    assert asked.parent(LEAF) == BASE.volume_id
    assert asked.parent(CLONE) == TEMPLATE.volume_id
    assert asked.children(BASE) == [LEAF.volume_id]
    with pytest.raises(NoSuchDomain):
        asked.images(DomainId(new_id()))


def test_volume_s_facts_have_the_original_s_keys(world: World) -> None:
    asked = queries(world)
    created = world.domain.backend.volume(BASE).created_s
    assert asked.volume_info(BASE).answer() == {
        "uuid": BASE.volume_id,
        "type": "SPARSE",
        "format": "RAW",
        "disktype": "DATA",
        "voltype": "INTERNAL",
        "capacity": str(MIB),
        "parent": "00000000-0000-0000-0000-000000000000",
        "description": "the base",
        "pool": "",
        "domain": DOMAIN,
        "image": BASE.image_id,
        "ctime": str(created),
        "mtime": "0",
        "legality": "LEGAL",
        "generation": 0,
        "sequence": 4,
        "apparentsize": str(MIB),
        "truesize": str(world.path(BASE).stat().st_blocks * 512),
        "status": "OK",
        "children": [],
    }
    assert asked.size(BASE).apparent == MIB
    for ref in (VolumeRef(DOMAIN, BASE.image_id, VolumeId(new_id())), volume(9, 1)):
        with pytest.raises(NoSuchVolume):
            asked.volume_info(ref)
        with pytest.raises(NoSuchVolume):
            asked.size(ref)


def test_damaged_volume_is_invalid_and_keeps_nobody_from_the_others(world: World) -> None:
    world.path(LEAF).with_name(f"{LEAF.volume_id}.meta").write_bytes(b"\0\xff nothing")
    asked = queries(world)
    assert asked.volume_info(LEAF).answer()["status"] == "INVALID"
    dumped = asked.dump(DOMAIN).answer()
    assert dumped[LEAF.volume_id]["status"] == "INVALID"
    assert dumped[LEAF.volume_id]["image"] == LEAF.image_id
    assert dumped[BASE.volume_id]["status"] == "OK"
    assert LEAF.volume_id in asked.volumes(DOMAIN)


def test_dump_has_every_volume_once_in_its_own_image(world: World) -> None:
    dumped = queries(world).dump(DOMAIN).answer()
    assert {ident: facts["image"] for ident, facts in dumped.items()} == {
        ref.volume_id: ref.image_id for ref in (BASE, LEAF, TEMPLATE, CLONE)
    }
    assert dumped[TEMPLATE.volume_id] == {
        "apparentsize": world.path(TEMPLATE).stat().st_size,
        "truesize": world.path(TEMPLATE).stat().st_blocks * 512,
        "capacity": MIB,
        "ctime": world.domain.backend.volume(TEMPLATE).created_s,
        "description": "",
        "disktype": "DATA",
        "format": "COW",
        "generation": 0,
        "image": TEMPLATE.image_id,
        "legality": "LEGAL",
        "parent": "00000000-0000-0000-0000-000000000000",
        "sequence": 0,
        "status": "OK",
        "type": "SPARSE",
        "voltype": "SHARED",
    }


# Names that are kept


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for image in "abc":
        (tmp_path / "images" / image).mkdir(parents=True)
        (tmp_path / "images" / image / "1").touch()
    return tmp_path / "images"


class Counting(LocalFiles):
    listed = 0

    def listdir(self, path: str) -> list[str]:
        self.listed += 1
        return super().listdir(path)


def test_names_are_listed_again_only_where_something_has_changed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(names, "monotonic_s", lambda: now_s)
    files = Counting()
    known = ImageNames(files, str(directory))
    expected = dict.fromkeys("abc", ("1",))
    assert known.all() == expected
    # A second change within the clock's tick would not be seen by the time: for a while nothing is believed.
    stamp = (directory / "a").stat().st_mtime_ns
    (directory / "a" / "2").touch()
    os.utime(directory / "a", ns=(stamp, stamp))
    expected["a"] = ("1", "2")
    now_s += 1
    assert known.all() == expected
    now_s += 10
    assert known.all() == expected
    listed = files.listed
    assert known.all() == expected
    assert files.listed == listed
    (directory / "b" / "2").touch()
    expected["b"] = ("1", "2")
    assert known.all() == expected
    assert files.listed == listed + 1
    (directory / "c" / "1").unlink()
    (directory / "c").rmdir()
    del expected["c"]
    (directory / "file").touch()
    expected["file"] = ()
    assert known.all() == expected


def test_many_directories_are_listed_in_one_call(directory: Path) -> None:
    for number in range(100):
        (directory / f"d{number}").mkdir()
        (directory / f"d{number}" / "x").touch()
    files = Counting()
    found = ImageNames(files, str(directory)).all()
    assert len(found) == 103
    assert found["d7"] == ("x",)
    assert files.listed == 0


# Leases


class Lock:
    """Says who has a lease, or does not."""

    def __init__(self, answer: LeaseState | Exception | None) -> None:
        self.answer = answer
        self.go_on = threading.Event()

    def inspect(self, lease: object) -> LeaseState:
        if self.answer is None:
            self.go_on.wait(30)
            raise LeaseFailed("looking", "late")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (LeaseState((3,), 7), {"owners": [3], "version": 7}),
        (LeaseState(), {"owners": [], "version": None}),
        (LeaseFailed("looking", "no such lease"), {}),
        (None, {}),
    ],
)
def test_lease_is_told_when_it_is_known_in_time(answer: LeaseState | Exception | None, told: dict[str, object]) -> None:
    world = MemoryWorld(StorageType.NFS)
    ref = create(world, world.ref(1, 1))
    lock = Lock(answer)
    domain = replace(world.domain, lock=lock)  # type: ignore[arg-type]
    found = ImageQueries(lambda _: domain, lease_timeout_s=0.2).volume_info(ref)
    lock.go_on.set()
    lease = world.backend.volume_lease(ref)
    assert lease is not None
    assert found.answer()["lease"] == {"path": lease.path, "offset": 0} | told
    assert found.data == DataFacts(196_616, 196_616)
