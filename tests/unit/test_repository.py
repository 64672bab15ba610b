"""storage.repository: names, links of pools and images, what start-up removes and what it never touches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vdsm.storage.connection.repository import Repository
from vdsm.storage.errors import InvalidParameter, StorageFailed
from vdsm.storage.ids import DomainId, ImageId, PoolId
from vdsm.storage.kinds import StorageType

POOL = PoolId("11111111-2222-3333-4444-555555555555")
ONE = DomainId("aaaaaaaa-0000-0000-0000-000000000001")
TWO = DomainId("aaaaaaaa-0000-0000-0000-000000000002")
IMAGE = ImageId("bbbbbbbb-0000-0000-0000-000000000001")
OTHER_IMAGE = ImageId("bbbbbbbb-0000-0000-0000-000000000002")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    for name in ("mnt", "hsm-tasks"):
        (tmp_path / "dc" / name).mkdir(parents=True)
    return Repository(str(tmp_path / "dc"), str(tmp_path / "run"))


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def target(path: str) -> str:
    return str(Path(path).readlink())


def test_default_places_are_the_formats() -> None:
    repository = Repository()
    assert repository.mount_of("server:/a_b/c/", StorageType.NFS) == "/rhev/data-center/mnt/server:_a__b_c"
    assert repository.mount_of("/data/images", StorageType.LOCALFS) == "/rhev/data-center/mnt/_data_images"
    assert repository.mount_of("host:/vol", StorageType.GLUSTERFS) == "/rhev/data-center/mnt/glusterSD/host:_vol"
    assert repository.domain_link(POOL, ONE) == f"/rhev/data-center/{POOL}/{ONE}"
    assert repository.image_link(ONE, IMAGE) == f"/run/vdsm/storage/{ONE}/{IMAGE}"


@pytest.mark.parametrize("spec", ["", ".", "..", "a\0b", "/" + "x" * 300])
def test_what_is_no_address_gets_no_place(spec: str) -> None:
    with pytest.raises(InvalidParameter):
        Repository().mount_of(spec, StorageType.NFS)


def test_links_of_a_pool_are_those_asked_for_and_no_others(repository: Repository) -> None:
    folder = repository.pool_dir(POOL)
    repository.link_pool(POOL, {ONE: "/m/one", TWO: "/m/two"}, "/m/one")
    assert {name: target(f"{folder}/{name}") for name in names(folder)} == {
        ONE: "/m/one",
        TWO: "/m/two",
        "mastersd": "/m/one",
    }
    Path(folder, "not-a-uuid").symlink_to("/x")
    repository.link_pool(POOL, {TWO: "/m/elsewhere"}, "/m/elsewhere")
    assert target(repository.domain_link(POOL, TWO)) == "/m/elsewhere"
    assert target(f"{folder}/mastersd") == "/m/elsewhere"
    assert names(folder) == [TWO, "mastersd", "not-a-uuid"]
    assert names(repository.root) == [POOL, "hsm-tasks", "mnt"]  # no temporary link is left
    repository.link_pool(POOL, {}, None)
    assert names(folder) == ["not-a-uuid"]


def test_unlinking_a_pool_removes_its_directory_and_twice_is_fine(repository: Repository) -> None:
    repository.link_pool(POOL, {ONE: "/m/one"}, "/m/one")
    repository.unlink_pool(POOL)
    repository.unlink_pool(POOL)
    assert names(repository.root) == ["hsm-tasks", "mnt"]


def test_without_the_tree_linking_fails_by_name(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "absent"), str(tmp_path / "run"))
    with pytest.raises(StorageFailed, match="No such file"):
        repository.link_pool(POOL, {}, None)
    assert repository.linked_directories() == {}
    repository.clean(frozenset())


def test_links_of_images_come_and_go(repository: Repository) -> None:
    for _ in range(2):
        assert repository.link_image(ONE, IMAGE, "/m/one/images/b") == repository.image_link(ONE, IMAGE)
    repository.link_image(ONE, OTHER_IMAGE, "/m/one/images/c")
    repository.link_image(ONE, IMAGE, "/m/two/images/b")
    assert target(repository.image_link(ONE, IMAGE)) == "/m/two/images/b"
    assert names(f"{repository.run}/{ONE}") == [IMAGE, OTHER_IMAGE]
    repository.unlink_image(ONE, IMAGE)
    repository.unlink_image(ONE, IMAGE)
    assert names(f"{repository.run}/{ONE}") == [OTHER_IMAGE]
    repository.unlink_image(ONE, OTHER_IMAGE)
    assert names(repository.run) == []


def test_directories_are_searchable_whatever_the_umask(repository: Repository) -> None:
    before = os.umask(0o077)
    try:
        repository.link_image(ONE, IMAGE, "/m")
        repository.link_pool(POOL, {}, None)
        repository.make_mount_point(f"{repository.mounts}/s:_x")
    finally:
        os.umask(before)
    made = [f"{repository.run}/{ONE}", repository.pool_dir(POOL), f"{repository.mounts}/s:_x"]
    assert {Path(path).stat().st_mode & 0o777 for path in made} == {0o755}


def test_start_up_removes_links_of_pools_and_nothing_else(repository: Repository) -> None:
    root = Path(repository.root)
    repository.link_pool(POOL, {ONE: "/m/one"}, "/m/one")
    (root / TWO).symlink_to("/half-made")
    repository.link_directory(f"{repository.mounts}/_data", "/data")
    repository.make_mount_point(f"{repository.mounts}/s:_x")
    (root / "a file").write_text("somebody's")
    (root / "full").mkdir()
    (root / "full" / "file").write_text("somebody's")
    (root / "mounted").mkdir()
    repository.clean(frozenset({str(root / "mounted")}))
    assert names(repository.root) == ["a file", "full", "hsm-tasks", "mnt", "mounted"]
    assert names(repository.mounts) == ["_data", "s:_x"]
    assert (root / "full" / "file").exists()


def test_stale_link_is_replaced_but_no_directory(repository: Repository) -> None:
    path = f"{repository.mounts}/_data"
    repository.link_directory(path, "/old")
    repository.link_directory(path, "/data")
    assert repository.linked_directories() == {path: "/data"}
    with pytest.raises(StorageFailed):
        repository.make_mount_point(path)
    repository.unlink_directory(path)
    repository.unlink_directory(path)
    repository.make_mount_point(path)
    Path(path, "x").touch()
    with pytest.raises(StorageFailed):
        repository.link_directory(path, "/data")
    repository.remove_mount_point(path)
    assert names(path) == ["x"]
    assert names(repository.root) == ["hsm-tasks", "mnt"]


@pytest.mark.parametrize("name", ["a b", "li\nne", "tab\t", "back\\slash", "ü\udcff", "'\"$(x)", "#", "-rf"])
def test_ugly_names(repository: Repository, name: str) -> None:
    path = repository.mount_of(f"/x/{name}", StorageType.LOCALFS)
    repository.link_directory(path, f"/x/{name}")
    assert repository.linked_directories() == {path: f"/x/{name}"}
    repository.unlink_directory(path)
    repository.make_mount_point(path)
    repository.remove_mount_point(path)
    assert names(repository.mounts) == []
