"""Storage domains are found, made and formatted in real file systems, whatever state these are in."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from domain_parts import Bound, LocalDoors, PaperLocks, Place, bound, eventually, mounted, registry, request
from needs import needs
from storage_domains import SAMPLE_ID, Full, unpack_sample
from vdsm.base.errors import NotResponding, Unfinished, VdsmError
from vdsm.storage.domains.domain_errors import DomainAttached, DomainNotReady, LongDescription, NoAccess, NotMounted
from vdsm.storage.domains.domain_maker import NewDomain, parse_version
from vdsm.storage.errors import (
    BrokenSeal,
    Damaged,
    DomainExists,
    InvalidParameter,
    NoSpace,
    NoSuchDomain,
    StorageFailed,
    UnsupportedVersion,
    WrongBlockSize,
)
from vdsm.storage.files.files import FileDomainReader
from vdsm.storage.files.localfiles import LocalFiles, LocalReader
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import MIB, Geometry
from vdsm.storage.ids import DomainId, PoolId, new_id
from vdsm.storage.kinds import AttachedStatus, DomainClass, DomainRole, StorageType
from vdsm.storage.oop.pool import HelperPool
from vdsm.storage.oop.supervisor import HelperLimits

LIMITS = HelperLimits(timeout_s=1.5, first_delay_s=0.2, longest_delay_s=0.5)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.of(tmp_path / "place")


@pytest.fixture
def pool() -> Iterator[HelperPool]:
    pool = HelperPool(LIMITS)
    yield pool
    assert pool.stop(20)


def tree_of(root: Path) -> dict[str, tuple[str, int]]:
    """Mode and length of everything below, directories without length."""
    found = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        size = facts.st_size if stat.S_ISREG(facts.st_mode) else 0
        found[str(path.relative_to(root))] = (stat.filemode(facts.st_mode), size)
    return found


# Making


def test_local_domain_is_what_the_format_says(place: Place) -> None:
    usual = os.umask(0o077)
    try:
        made = registry([place]).create(request(place, name="größe ✓"))
    finally:
        os.umask(usual)
    assert tree_of(Path(place.path)) == {
        made.id: ("drwxr-xr-x", 0),
        f"{made.id}/dom_md": ("drwxr-xr-x", 0),
        f"{made.id}/dom_md/ids": ("-rw-rw----", 0),
        f"{made.id}/dom_md/inbox": ("-rw-rw----", 16 * MIB),
        f"{made.id}/dom_md/leases": ("-rw-rw----", 0),
        f"{made.id}/dom_md/metadata": ("-rw-r--r--", len(Path(f"{made.path}/dom_md/metadata").read_bytes())),
        f"{made.id}/dom_md/outbox": ("-rw-rw----", 16 * MIB),
        f"{made.id}/images": ("drwxr-xr-x", 0),
    }
    text = Path(f"{made.path}/dom_md/metadata").read_text("utf-8")
    assert text.splitlines()[:-1] == [
        "ALIGNMENT=1048576",
        "BLOCK_SIZE=512",
        "CLASS=Data",
        "DESCRIPTION=größe ✓",
        "IOOPTIMEOUTSEC=10",
        "LEASERETRIES=3",
        "LEASETIMESEC=60",
        "LOCKPOLICY=",
        "LOCKRENEWALINTERVALSEC=5",
        "POOL_UUID=",
        f"REMOTE_PATH={place.spec}",
        "ROLE=Regular",
        f"SDUUID={made.id}",
        "TYPE=LOCALFS",
        "VERSION=5",
    ]


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("kind", [StorageType.NFS, StorageType.POSIXFS, StorageType.GLUSTERFS])
def test_shared_domain_is_what_the_format_says(tmp_path: Path, version: int, kind: StorageType) -> None:
    place, locks = Place.of(tmp_path / "place", kind), PaperLocks()
    domains = registry([place], locks=locks)
    made = domains.create(request(place, version=version))
    assert (made.kind, made.version, made.domain_class, made.geometry) == (kind, version, DomainClass.DATA, Geometry())
    files = {name: size for name, (_, size) in tree_of(Path(made.path)).items() if "dom_md/" in name}
    del files["dom_md/metadata"]
    xleases = {"dom_md/xleases": MIB + 253952} if version >= 4 else {}
    plain = {"dom_md/ids": MIB, "dom_md/leases": 2 * MIB, "dom_md/inbox": 16 * MIB, "dom_md/outbox": 16 * MIB}
    assert files == {**plain, **xleases}
    assert locks.made[made.id].formatted == 1
    text = Path(f"{made.path}/dom_md/metadata").read_text()
    assert ("BLOCK_SIZE=512" in text, "ALIGNMENT=1048576" in text) == (version == 5, version == 5)
    # A registry that has seen nothing yet comes to the same.
    again = registry([place]).find(made.id)
    assert (again.kind, again.version, again.geometry, again.mount) == (kind, version, Geometry(), place.path)
    assert domains.info(made.id) == registry([place]).validate(made.id)


def test_iso_and_backup_domains(tmp_path: Path) -> None:
    places = [Place.of(tmp_path / "iso"), Place.of(tmp_path / "backup")]
    domains = registry(places)
    iso = domains.create(request(places[0], domain_class=DomainClass.ISO))
    backup = domains.create(request(places[1], domain_class=DomainClass.BACKUP))
    assert [path.name for path in Path(iso.path, "images").iterdir()] == ["11111111-1111-1111-1111-111111111111"]
    assert list(Path(backup.path, "images").iterdir()) == []
    assert [domains.info(each.id).domain_class for each in (iso, backup)] == [DomainClass.ISO, DomainClass.BACKUP]
    assert domains.visible() == sorted([iso.id, backup.id])


def test_block_size_follows_the_storage_or_the_request(tmp_path: Path) -> None:
    class Sectors(LocalFiles):
        size = 4096

        def probe_block_size(self, path: str) -> int:
            return self.size

    files = Sectors()
    places = [Place.of(tmp_path / name, StorageType.GLUSTERFS) for name in "abc"]
    domains = registry(places, LocalDoors(files))
    assert domains.create(request(places[0], block_size=0)).geometry == Geometry(4096, MIB)
    made = domains.create(request(places[1], block_size=4096, max_hosts=700))
    assert made.geometry == Geometry(4096, 4 * MIB)
    assert Path(f"{made.path}/dom_md/leases").stat().st_size == 8 * MIB
    with pytest.raises(WrongBlockSize) as refused:
        domains.create(request(places[2], block_size=512))
    assert refused.value.code == 348
    files.size = 1
    assert domains.create(request(places[2], block_size=0)).geometry == Geometry(512, MIB)
    # What a domain was made for and what its storage says now must agree, at each opening.
    files.size = 512
    with pytest.raises(WrongBlockSize):
        domains.validate(made.id)


@pytest.mark.parametrize(
    ("facts", "error", "code"),
    [
        ({"name": "x" * 51}, LongDescription, 387),
        ({"name": "two\nlines"}, InvalidParameter, 1000),
        ({"version": 0}, UnsupportedVersion, 394),
        ({"version": 2}, UnsupportedVersion, 394),
        ({"version": 6}, UnsupportedVersion, 394),
        ({"block_size": 1024}, InvalidParameter, 1000),
        ({"version": 4, "block_size": 4096}, InvalidParameter, 1000),
        ({"max_hosts": 0}, InvalidParameter, 1000),
        ({"max_hosts": 2001}, InvalidParameter, 1000),
        ({"kind": StorageType.ISCSI}, NotMounted, 360),
        ({"spec": "/nowhere"}, NotMounted, 360),
        ({"kind": StorageType.NFS}, NotMounted, 360),
    ],
)
def test_wrong_request_is_refused_and_leaves_nothing(
    place: Place, facts: dict[str, object], error: type[VdsmError], code: int
) -> None:
    domains = registry([place])
    with pytest.raises(error) as refused:
        domains.create(request(_placed(place, facts), **_of_request(facts)))
    assert refused.value.code == code
    assert list(Path(place.path).iterdir()) == []


def _placed(place: Place, facts: dict[str, object]) -> Place:
    kind, spec = facts.get("kind", place.type), facts.get("spec", place.spec)
    assert isinstance(kind, StorageType)
    return Place(place.path, kind, str(spec))


def _of_request(facts: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in facts.items() if name not in {"kind", "spec"}}


def test_nfs_has_sectors_of_512(tmp_path: Path) -> None:
    place = Place.of(tmp_path / "nfs", StorageType.NFS)
    for size in (0, 4096):
        with pytest.raises(InvalidParameter):
            registry([place]).create(request(place, block_size=size))


@pytest.mark.parametrize(("text", "version"), [("5", 5), ("3", 3), (4, 4), ("", 5), (None, 5)])
def test_version_text_is_read(text: str | int | None, version: int) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(("text", "error"), [("1", UnsupportedVersion), ("6", UnsupportedVersion), ("v5", VdsmError)])
def test_wrong_version_text_is_refused(text: str, error: type[VdsmError]) -> None:
    with pytest.raises(error):
        parse_version(text)


def test_place_has_one_domain(place: Place) -> None:
    domains = registry([place])
    first = domains.create(request(place))
    for again in (request(place), replace_id(place, first.id)):
        with pytest.raises(DomainExists) as refused:
            domains.create(again)
        assert refused.value.code == 365
    assert domains.visible() == [first.id]


def replace_id(place: Place, domain_id: DomainId) -> NewDomain:
    return NewDomain(domain_id, place.type, place.spec)


def test_foreign_directories_do_no_harm_and_are_not_touched(place: Place) -> None:
    for name in ("lost+found", "a b", "-rf", "new\nline", ".snapshot"):
        (Path(place.path) / name).mkdir()
    wanted = request(place)
    (Path(place.path) / wanted.id).mkdir()
    (Path(place.path) / wanted.id / "precious").touch()
    domains = registry([place])
    with pytest.raises(DomainExists):
        domains.create(wanted)
    assert (Path(place.path) / wanted.id / "precious").exists()
    made = domains.create(request(place))
    assert domains.visible() == [made.id]


@pytest.mark.parametrize("name", ["[fe80::1]:_x", "a b", "ünï", "*?[!a]", "q'u\"o", "$(id)", "-x", "%s"])
def test_ugly_mount_points_are_no_trouble(tmp_path: Path, name: str, pool: HelperPool) -> None:
    places = [Place.of(tmp_path / name), Place.of(tmp_path / "other")]
    domains = registry(places, pool)
    made = domains.create(request(places[0], name="x"))
    assert domains.visible() == [made.id]
    domains.set_description(made.id, "y")
    assert registry(places, pool).validate(made.id).description == "y"
    domains.format(made.id)
    assert list(Path(places[0].path).iterdir()) == []


def test_place_that_metadata_cannot_name_is_refused(tmp_path: Path) -> None:
    place = Place.of(tmp_path / "new\nline")
    with pytest.raises(InvalidParameter):
        registry([place]).create(request(place))
    assert list(Path(place.path).iterdir()) == []


def test_full_file_system_at_each_write_leaves_nothing(tmp_path: Path) -> None:
    place, refused = Place.of(tmp_path / "place", StorageType.NFS), 0
    while True:
        try:
            registry([place], LocalDoors(Full(refused))).create(request(place))
        except NoSpace:
            refused += 1
            assert list(Path(place.path).iterdir()) == []
        else:
            break
    assert refused == 14


@needs("root")
@pytest.mark.parametrize("inodes", range(2, 10))
def test_file_system_that_is_really_full_leaves_nothing(tmp_path: Path, inodes: int) -> None:
    small = tmp_path / "small"
    with mounted(small, "-t", "tmpfs", "-o", f"nr_inodes={inodes}", "small"):
        place = Place.of(small)
        domains = registry([place])
        if inodes < 9:
            with pytest.raises(NoSpace) as refused:
                domains.create(request(place))
            assert refused.value.code == 397
            assert list(small.iterdir()) == []
        else:
            domains.create(request(place))


@needs("root")
def test_domain_in_a_full_or_read_only_file_system_is_found(tmp_path: Path) -> None:
    small = tmp_path / "small"
    with mounted(small, "-t", "tmpfs", "-o", "size=64k", "small"):
        place = Place.of(small)
        made = registry([place]).create(request(place))
        with pytest.raises(OSError, match="No space"):
            (small / "ballast").write_bytes(bytes(1 << 20))
        domains = registry([place])
        assert domains.find(made.id).version == 5
        assert domains.space(made.id).free == 0
        with pytest.raises(NoSpace):
            domains.set_description(made.id, "another")
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True, timeout=30)
        domains = registry([place])
        assert domains.space(made.id).read_only
        assert domains.info(made.id).description == ""
        for change in (
            lambda: domains.set_description(made.id, "another"),
            lambda: domains.format(made.id),
            lambda: domains.create(request(place)),
        ):
            with pytest.raises((StorageFailed, DomainExists, NoAccess)):
                change()
        assert domains.validate(made.id).description == ""


@needs("root")
def test_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with mounted(tmp_path / "ro", "-t", "tmpfs", "-o", "ro", "ro"):
        place = Place.of(tmp_path / "ro")
        with pytest.raises(NoAccess) as refused:
            registry([place]).create(request(place))
        assert refused.value.code == 379


def test_of_many_makers_of_one_id_one_succeeds(place: Place, pool: HelperPool) -> None:
    domains, wanted = registry([place], pool), request(place)

    def make(_: int) -> str:
        try:
            return domains.create(wanted).id
        except DomainExists:
            return "exists"

    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(make, range(8)))
    assert sorted(found) == sorted([wanted.id, *["exists"] * 7])
    assert domains.validate(wanted.id).domain_id == wanted.id


# Finding


@needs("root")
def test_original_s_sample_is_found_read_only(tmp_path: Path, pool: HelperPool) -> None:
    unpack_sample(tmp_path / "sample")
    shown = tmp_path / "shown"
    with mounted(shown, "--bind", str(tmp_path / "sample")):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(shown)], check=True, timeout=30)
        places = [Place.of(tmp_path / "empty"), Place.of(shown)]
        domains = registry(places, pool)
        assert domains.visible() == [SAMPLE_ID]
        domain, said = domains.find(SAMPLE_ID), domains.validate(SAMPLE_ID)
        assert (domain.kind, domain.version, domain.domain_class) == (StorageType.LOCALFS, 5, DomainClass.DATA)
        assert (said.description, said.role) == ("sample-localfs", DomainRole.MASTER)
        assert said.pools == ("5bb00001-1001-4000-8000-0000000010ca",)
        assert said.pool is not None
        assert said.pool.domains == {SAMPLE_ID: AttachedStatus.ACTIVE}
        assert domains.space(SAMPLE_ID).read_only
        reader = FileDomainReader(LocalReader(), str(tmp_path / "sample"), SAMPLE_ID, direct=True)
        assert domain.backend.images() == reader.images()
        assert domain.backend.inventory() == reader.inventory()


def test_domains_are_found_among_many_places_and_again_after_they_move(tmp_path: Path) -> None:
    places = [Place.of(tmp_path / str(number)) for number in range(12)]
    maker = registry(places)
    ids = [maker.create(request(place)).id for place in places]
    doors = LocalDoors()
    domains = registry(places, doors)
    assert [domains.find(ident).mount for ident in ids] == [place.path for place in places]
    assert domains.find(ids[3]) is domains.find(ids[3])
    assert domains.visible() == sorted(ids)
    gone = places.pop(3)
    domains.forget_mount(gone.path)
    assert doors.closed == [gone.path]
    with pytest.raises(NoSuchDomain) as refused:
        domains.find(ids[3])
    assert refused.value.code == 358
    Path(gone.path).rename(tmp_path / "moved")
    places.append(Place.of(tmp_path / "moved"))
    assert domains.find(ids[3]).mount == str(tmp_path / "moved")


def test_lock_stays_the_same_while_handles_are_made_anew(place: Place) -> None:
    domains = registry([place])
    made = domains.create(request(place))
    domains.forget(made.id)
    again = domains.find(made.id)
    assert again is not made
    assert again.lock is made.lock


class Slow(LocalFiles):
    """Files that wait at a gate when a mount is listed."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.lists = 0

    def listdir(self, path: str) -> list[str]:
        self.lists += 1
        assert self.open.wait(60)
        return super().listdir(path)


def test_of_many_who_ask_each_mount_is_looked_at_by_one(tmp_path: Path) -> None:
    places = [Place.of(tmp_path / str(number)) for number in range(8)]
    maker, slow = registry(places), Slow()
    ids = [maker.create(request(place)).id for place in places]
    domains = registry(places, LocalDoors(slow))
    with ThreadPoolExecutor(24) as callers:
        asked = [callers.submit(domains.find, ident) for ident in ids * 3]
        eventually(lambda: slow.lists == len(places))
        looking = [thread for thread in threading.enumerate() if thread.name.startswith(f"look-{tmp_path}")]
        assert len(looking) == len(places)
        slow.open.set()
        assert [future.result(60).id for future in asked] == ids * 3
    # At most once more, by those who asked after the first look had begun.
    assert slow.lists <= 2 * len(places)


class Late(LocalFiles):
    """Files that say at the gate what was in a mount before it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.lists = 0

    def listdir(self, path: str) -> list[str]:
        names = super().listdir(path)
        self.lists += 1
        assert self.open.wait(60)
        return names


class Counted(list[Place]):
    """Places that count how often they were asked for."""

    asked = 0

    def __iter__(self) -> Iterator[Place]:
        self.asked += 1
        return super().__iter__()


def test_look_that_began_before_the_domain_was_made_proves_nothing(place: Place) -> None:
    late, wanted, places = Late(), request(place), Counted([place])
    domains = registry(places, LocalDoors(late))
    with ThreadPoolExecutor(2) as callers:
        early = callers.submit(domains.find, DomainId(new_id()))
        eventually(lambda: late.lists == 1)
        registry([place]).create(wanted)
        asked = callers.submit(domains.find, wanted.id)
        eventually(lambda: places.asked == 2)
        time.sleep(0.05)  # until it waits; sooner, the test is no good but does not fail
        late.open.set()
        assert asked.result(60).id == wanted.id
        with pytest.raises(NoSuchDomain):
            early.result(60)


def test_domain_that_has_moved_behind_our_back_is_found(tmp_path: Path) -> None:
    places = [Place.of(tmp_path / "a"), Place.of(tmp_path / "b")]
    made = registry(places).create(request(places[0]))
    domains = registry(places)
    assert domains.visible() == [made.id]
    Path(made.path).rename(tmp_path / "b" / made.id)
    assert domains.find(made.id).mount == places[1].path


def test_domain_of_another_host_is_seen_by_the_next_who_asks(tmp_path: Path) -> None:
    places = [Place.of(tmp_path / "a"), Place.of(tmp_path / "b")]
    domains, other = registry(places), registry(places)
    wanted = request(places[1])
    for _ in range(3):
        with pytest.raises(NoSuchDomain):
            domains.find(wanted.id)
        other.create(wanted)
        assert domains.find(wanted.id).mount == places[1].path
        other.format(wanted.id)
        domains.forget(wanted.id)


JUNK = {
    "empty": (b"", Damaged),
    "zeros": (bytes(4096), Damaged),
    "binary": (bytes(range(256)) * 20, Damaged),
    "huge": (b"A=b\n" * (1 << 19), Damaged),
    "no end": (b"x" * (3 << 20), Damaged),
    "wrong checksum": (b"CLASS=Data\n_SHA_CKSUM=" + b"0" * 40 + b"\n", BrokenSeal),
    "version 0": (b"SDUUID=x\nVERSION=0\n", UnsupportedVersion),
    "version 6": (b"SDUUID=x\nVERSION=6\n", UnsupportedVersion),
    "of another": (b"", Damaged),
}


@pytest.mark.parametrize("kind", JUNK)
def test_damaged_domain_is_a_clear_error_and_others_are_found(tmp_path: Path, kind: str) -> None:
    places = [Place.of(tmp_path / "bad"), Place.of(tmp_path / "good")]
    maker = registry(places)
    bad, good = (maker.create(request(place)) for place in places)
    content, error = JUNK[kind]
    path = Path(f"{bad.path}/dom_md/metadata")
    path.write_bytes(Path(f"{good.path}/dom_md/metadata").read_bytes() if kind == "of another" else content)
    domains = registry(places)
    with pytest.raises(error) as told:
        domains.find(bad.id)
    assert isinstance(told.value, VdsmError)
    assert domains.find(good.id).id == good.id
    assert domains.visible() == sorted([bad.id, good.id])
    with pytest.raises(error):
        domains.format(bad.id)
    assert Path(f"{bad.path}/images").exists()


def test_torn_metadata_at_each_length_is_damaged_or_whole(place: Place) -> None:
    made = registry([place]).create(request(place, name="torn"))
    path = Path(f"{made.path}/dom_md/metadata")
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            said = registry([place]).info(made.id)
        except Damaged:
            continue
        # Up to the line of the checksum there is nothing to tell a torn text by: the format accepts that.
        assert b"_SHA_CKSUM=" not in whole[:length], said


def test_link_or_directory_in_the_place_of_metadata(tmp_path: Path, place: Place) -> None:
    made = registry([place]).create(request(place))
    path = Path(f"{made.path}/dom_md/metadata")
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageFailed):
        registry([place]).find(made.id)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(StorageFailed):
        registry([place]).find(made.id)


def test_validate_names_what_is_missing(tmp_path: Path) -> None:
    place = Place.of(tmp_path / "place", StorageType.NFS)
    domains = registry([place])
    made = domains.create(request(place))
    Path(f"{made.path}/dom_md/xleases").unlink()
    Path(f"{made.path}/dom_md/inbox").unlink()
    with pytest.raises(DomainNotReady, match="xleases, inbox"):
        domains.validate(made.id)
    Path(f"{made.path}/images").rmdir()
    with pytest.raises(DomainNotReady, match="images") as told:
        domains.validate(made.id)
    assert told.value.code == 371


# Changing


def test_name_is_changed_on_the_disk_and_the_rest_is_kept(place: Place) -> None:
    domains = registry([place])
    made = domains.create(request(place, name="old"))
    before = domains.info(made.id)
    domains.set_description(made.id, "n" * 50)
    assert registry([place]).info(made.id) == replace(before, description="n" * 50)
    for wrong, error in (("n" * 51, LongDescription), ("a\nb", InvalidParameter), ("a\u2028b", InvalidParameter)):
        with pytest.raises(error):
            domains.set_description(made.id, wrong)
    assert domains.info(made.id).description == "n" * 50


def test_no_change_is_lost_between_changers(place: Place, pool: HelperPool) -> None:
    domains = registry([place], pool)
    made = domains.create(request(place))

    def attach(number: int) -> None:
        def change(metadata: DomainMetadata) -> DomainMetadata:
            return replace(metadata, others={**metadata.others, f"KEY{number}": "x"})

        domains.update(made.id, change)

    with ThreadPoolExecutor(6) as changers:
        list(changers.map(attach, range(12)))
    assert set(domains.info(made.id).others) == {f"KEY{number}" for number in range(12)}


def test_domain_of_another_version_is_opened_anew(place: Place) -> None:
    domains = registry([place])
    made = domains.create(request(place, version=4))
    domains.update(made.id, lambda metadata: replace(metadata, version=5))
    assert (made.version, domains.find(made.id).version) == (4, 5)


# Formatting


def attach(domains: object, domain_id: DomainId) -> PoolId:
    pool_id = PoolId(new_id())
    domains.update(domain_id, lambda metadata: replace(metadata, pools=(pool_id,)))  # type: ignore[attr-defined]
    return pool_id


def fill(path: str) -> None:
    """What a used domain has."""
    for directory in ("images/a/b", "images/_remove_me_x", "master/tasks/t", "master/vms/v", "stray"):
        Path(f"{path}/{directory}").mkdir(parents=True)
    for name in ("images/a/b/c", "images/x", "master/vms/v/v.ovf", "stray/f", "dom_md/metadata.new"):
        Path(f"{path}/{name}").write_text("x")
    Path(f"{path}/images/link").symlink_to("/etc")


def test_attached_domain_is_formatted_on_demand_only(place: Place) -> None:
    locks = PaperLocks()
    domains = registry([place], locks=locks)
    made = domains.create(request(place))
    pool_id = attach(domains, made.id)
    fill(made.path)
    before = tree_of(Path(place.path))
    with pytest.raises(DomainAttached, match=pool_id) as refused:
        domains.format(made.id)
    assert refused.value.code == 391
    assert tree_of(Path(place.path)) == before
    domains.format(made.id, auto_detach=True)
    assert list(Path(place.path).iterdir()) == []
    assert Path("/etc/passwd").exists()
    with pytest.raises(NoSuchDomain):
        domains.format(made.id)
    assert domains.create(replace_id(place, made.id)).lock is not made.lock


@pytest.mark.parametrize("name", ["images", "master", "dom_md", ""])
def test_link_in_the_place_of_a_directory_leads_nobody_out(place: Place, tmp_path: Path, name: str) -> None:
    domains = registry([place])
    made = domains.create(request(place))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    if name in {"dom_md", ""}:
        # What is found through the link is a domain; what is taken away is the link.
        Path(f"{made.path}/{name}".rstrip("/")).rename(tmp_path / "moved")
        Path(f"{made.path}/{name}".rstrip("/")).symlink_to(tmp_path / "moved")
    else:
        path = Path(f"{made.path}/{name}")
        if path.exists():
            path.rmdir()
        path.symlink_to(precious)
    domains.format(made.id)
    assert list(Path(place.path).iterdir()) == []
    assert (precious / "file").exists()
    assert not (tmp_path / "moved").exists() or list((tmp_path / "moved").rglob("metadata"))


def test_half_removed_domain_is_removed_again(place: Place) -> None:
    domains = registry([place])
    made = domains.create(request(place))
    fill(made.path)
    Path(f"{made.path}/dom_md/metadata").unlink()
    with pytest.raises(NoSuchDomain):
        registry([place]).find(made.id)
    registry([place]).format(made.id)
    assert list(Path(place.path).iterdir()) == []


def test_half_made_domain_is_made_again_or_formatted(place: Place) -> None:
    domains = registry([place])
    for again in (domains.create, lambda wanted: domains.format(wanted.id)):
        wanted = request(place)
        half = Path(place.path) / wanted.id / "dom_md"
        half.mkdir(parents=True)
        (half / "ids").touch()
        (half / "xleases").touch()
        with pytest.raises(DomainExists):
            domains.create(request(place))
        again(wanted)
        left = [path.name for path in Path(place.path).rglob("*")]
        assert "xleases" not in left
        if left:
            domains.format(wanted.id)
    assert list(Path(place.path).iterdir()) == []


# Storage that does not answer


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Bound]:
    with bound(tmp_path / "real", tmp_path / "frozen") as found:
        yield found


def outcome(call: object) -> type:
    try:
        return type(call())  # type: ignore[operator]
    except VdsmError as error:
        return type(error)


@needs("root", "fuse", "program:bindfs")
def test_frozen_storage_keeps_nobody_from_other_domains_and_comes_back(
    tmp_path: Path, frozen: Bound, pool: HelperPool
) -> None:
    places = [Place.of(frozen.mount), Place.of(tmp_path / "a"), Place.of(tmp_path / "b")]
    maker = registry(places)
    ids = [maker.create(request(place)).id for place in places]
    patient, domains = registry(places, pool, timeout_s=60.0), registry(places, pool, timeout_s=2.0)
    assert domains.visible() == sorted(ids)
    frozen.freeze()
    threads = threading.active_count()
    for ident in ids[1:]:
        assert patient.find(ident).id == ident
    # They were not waited for: the frozen one is still being asked.
    waiting = {stats.domain: stats.in_flight for stats in pool.stats()}
    assert waiting[places[0].path] >= 1
    for ident in ids[1:]:
        assert domains.find(ident).id == ident
    assert {outcome(lambda: domains.find(ids[0])) for _ in range(3)} <= {Unfinished, NotResponding}
    with ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(outcome, lambda: domains.find(ids[0])) for _ in range(8)]
        assert {future.result(60) for future in asked} <= {Unfinished, NotResponding}
    for _ in range(5):
        assert domains.visible() == sorted(ids[1:])
        # What nobody else can have is known not to be there, as the frozen one has a domain already.
        assert outcome(lambda: domains.find(DomainId(new_id()))) is NoSuchDomain
    eventually(lambda: threading.active_count() <= threads + 2 * len(places) + LIMITS.abandoned)
    frozen.thaw()
    eventually(lambda: outcome(lambda: domains.find(ids[0])) not in {Unfinished, NotResponding})
    assert domains.validate(ids[0]).domain_id == ids[0]
    eventually(lambda: all(stats.abandoned == 0 for stats in pool.stats()))


@needs("root", "fuse", "program:bindfs")
def test_domain_that_frozen_storage_may_have_is_not_said_to_be_gone(
    tmp_path: Path, frozen: Bound, pool: HelperPool
) -> None:
    places = [Place.of(frozen.mount), Place.of(tmp_path / "a")]
    ident = registry(places).create(request(places[0])).id
    domains = registry(places, pool, timeout_s=2.0)
    frozen.freeze()
    assert outcome(lambda: domains.find(ident)) in {Unfinished, NotResponding}
    with pytest.raises((Unfinished, NotResponding)):
        domains.create(request(places[0]))
    assert domains.create(request(places[1])).mount == places[1].path
    frozen.thaw()
    eventually(lambda: outcome(lambda: domains.find(ident)) not in {Unfinished, NotResponding})
