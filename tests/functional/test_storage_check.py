"""Checking and repairing storage domains: every fault planted one by one in real domains, named exactly, and mended.

What is mended leaves the data of all images as it was; what is not mended is left, with the reason.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import msgspec
import pytest

from image_domains import COW, MIB, RAW, Storage, reopen, run
from lab.agent_host import short_directory
from needs import needs
from storage_domains import NOW_S, Areas, file_domain, metadata, unpack_sample
from vdsm.operations.locks import Locks
from vdsm.operations.records import Phase, Record
from vdsm.storage import wants
from vdsm.storage.access import FileAccess
from vdsm.storage.checks.check import DomainChecker
from vdsm.storage.checks.check_facts import Finding, Word
from vdsm.storage.checks.repair import DomainRepair
from vdsm.storage.domains.domain import Domain
from vdsm.storage.files.file_backend import FileBackend
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.files.localfiles import LocalFiles
from vdsm.storage.formats import leases, xleases
from vdsm.storage.formats.domain import DomainMetadata
from vdsm.storage.formats.leases import LeaseRecord
from vdsm.storage.formats.volume import VolumeMetadata, encode_volume
from vdsm.storage.ids import ImageId, ImageRef, LeaseId, VolumeId, VolumeRef, new_id
from vdsm.storage.kinds import DomainRole, Legality, StorageType, VolumeKind
from vdsm.storage.leases.lease_index import LeaseIndex
from vdsm.storage.locks.lock_twin import SharedDisk, TwinHost
from vdsm.storage.pool import master
from vdsm.storage.steps import Change

pytestmark = needs("program:qemu-img", "program:qemu-io")

LOCKSPACE_MAGIC = bytes.fromhex("10202112")


class SectorAreas(Areas):
    """Writes the first sectors as sanlock does, and reads the names back."""

    def write_lockspace(self, lockspace: LeaseRecord) -> None:
        super().write_lockspace(lockspace)
        with Path(lockspace.path).open("r+b") as file:
            file.write(LOCKSPACE_MAGIC)

    def write_resource(self, resource: LeaseRecord) -> None:
        super().write_resource(resource)
        sector = struct.pack(
            "<I28xQQQ48s48sQ", 0x06152010, 0, 0, 0, resource.lockspace.encode(), resource.resource.encode(), 0
        )
        with Path(resource.path).open("r+b") as file:
            file.seek(resource.offset)
            file.write(sector if resource.lockspace else bytes(len(sector)))

    def read_names(self, resource: LeaseRecord) -> tuple[str, str] | None:
        with Path(resource.path).open("rb") as file:
            file.seek(resource.offset)
            data = file.read(512)
        if len(data) < 512 or not any(data):
            return None
        leader = leases.decode_leader(data, "")
        return leader.lockspace, leader.resource


@dataclass
class World:
    """A domain with a chain of three, a raw image, a template and an image on it, and who checks it."""

    domain: Domain
    storage: Storage
    areas: SectorAreas
    locks: Locks = field(default_factory=Locks)
    chain: list[VolumeRef] = field(default_factory=list)
    raw: list[VolumeRef] = field(default_factory=list)
    template: list[VolumeRef] = field(default_factory=list)
    clone: list[VolumeRef] = field(default_factory=list)

    @property
    def checker(self) -> DomainChecker:
        return DomainChecker(self.storage.find, self.areas, self.storage.images, self.locks)

    def check(self, *, data: bool = False) -> list[Finding]:
        return list(self.checker.check(self.domain.id, data=data).findings)

    def repair(self, *, data: bool = False) -> tuple[list[Finding], list[Finding]]:
        mender = DomainRepair(self.storage.find, self.checker, self.storage.images, self.areas)
        done = mender.repair(self.domain.id, data=data)
        return list(done.mended), list(done.left)

    def path(self, volume: VolumeRef, end: str = "") -> Path:
        return Path(self.storage.path(volume) + end)

    def special(self, name: str) -> Path:
        return Path(self.domain.path) / "dom_md" / name

    def image(self, volume: VolumeRef) -> Path:
        return self.path(volume).parent

    def change(self, volume: VolumeRef, **values: object) -> None:
        """Rewrite metadata past all rules, in place: a template's stays linked."""
        step = Change(volume, **values)  # type: ignore[arg-type]
        backend = self.domain.backend
        backend._overwrite_meta(  # type: ignore[attr-defined]
            volume, _encoded(step, backend.volume(volume), self.domain.version)
        )

    def digests(self) -> dict[VolumeRef, str]:
        tops = (self.chain[-1], *self.raw, *self.template, *self.clone)
        return {item: self.storage.digest(item) for item in tops}


def _encoded(step: Change, known: object, version: int) -> bytes:
    assert isinstance(known, VolumeMetadata)
    return encode_volume(step.changed(known), version)


def opened(root: Path, described: DomainMetadata) -> World:
    """The domain below ``root`` as it is."""
    files, areas, kind = LocalFiles(), SectorAreas(), described.storage_type
    backend = FileBackend(files, str(root), described, QemuImageMaker(), areas if kind.is_shared else None)
    dom_md = f"{root}/{described.domain_id}/dom_md"
    lock = TwinHost(SharedDisk()).locks(
        described.domain_id, kind, f"{dom_md}/ids", f"{dom_md}/leases", described.geometry
    )
    domain = Domain(
        id=described.domain_id,
        kind=kind,
        domain_class=described.domain_class,
        version=described.version,
        geometry=described.geometry,
        mount=str(root),
        files=files,
        backend=backend,
        lock=lock,
    )
    return World(domain, Storage(domain), areas)


def make_world(root: Path, kind: StorageType) -> World:
    described = metadata(kind)
    areas = SectorAreas()
    root.mkdir()
    file_domain(LocalFiles(), root, described, areas if kind.is_shared else None)
    world = opened(root, described)
    world.chain = world.storage.chain(world.domain, COW, COW, COW)
    world.raw = world.storage.chain(world.domain, RAW)
    world.template = world.storage.chain(world.domain, COW)
    clone = VolumeRef(world.domain.id, ImageId(new_id()), VolumeId(new_id()))
    world.storage.add(clone, parent=world.template[0])
    world.storage.write(clone, "write -P 9 3M 1M")
    world.clone = [clone]
    return world


def copied(world: World, root: Path) -> World:
    """The same domain in another place, hard links and all."""
    run("cp", "-a", "--sparse=always", world.domain.mount, str(root))
    found = opened(root, world.domain.backend.read_domain())
    return replace(found, chain=world.chain, raw=world.raw, template=world.template, clone=world.clone)


@pytest.fixture(scope="module")
def pristine() -> Iterator[dict[StorageType, tuple[World, dict[VolumeRef, str]]]]:
    """A sound domain of each kind, and what guests see of its images."""
    with short_directory() as place:
        worlds = [make_world(place / kind.value, kind) for kind in (StorageType.LOCALFS, StorageType.NFS)]
        yield {world.domain.kind: (world, world.digests()) for world in worlds}


Pristine = dict[StorageType, tuple[World, dict[VolumeRef, str]]]


@pytest.fixture
def local(pristine: Pristine) -> Iterator[World]:
    with short_directory() as place:
        yield copied(pristine[StorageType.LOCALFS][0], place / "domain")


@pytest.fixture
def shared(pristine: Pristine) -> Iterator[World]:
    with short_directory() as place:
        yield copied(pristine[StorageType.NFS][0], place / "domain")


@pytest.fixture
def before(pristine: Pristine, request: pytest.FixtureRequest) -> dict[VolumeRef, str]:
    """What guests see as long as nothing is lost."""
    kind = StorageType.NFS if "shared" in request.fixturenames else StorageType.LOCALFS
    return pristine[kind][1]


def test_sound_domains_have_no_findings(local: World, shared: World) -> None:
    assert local.check(data=True) == []
    assert shared.check(data=True) == []
    assert (local.repair(), shared.repair()) == (([], []), ([], []))


# Each plants one fault; what the object's path ends with is returned.
Plant = Callable[[World], str]


def wrong_kind(world: World) -> str:
    world.change(world.chain[1], kind=VolumeKind.LEAF)
    return world.chain[1].volume_id


def wrong_kind_of_leaf(world: World) -> str:
    world.change(world.chain[2], kind=VolumeKind.INTERNAL)
    return world.chain[2].volume_id


def small_capacity(world: World) -> str:
    world.change(world.chain[2], capacity=4 * MIB)
    world.change(world.chain[1], capacity=4 * MIB)
    world.change(world.chain[0], capacity=4 * MIB)
    return world.chain[0].volume_id


def no_capacity(world: World) -> str:
    world.change(world.raw[0], capacity=0)
    return world.raw[0].volume_id


def half_made(world: World) -> str:
    path = world.image(world.chain[0]) / new_id()
    path.touch(0o660)
    path.chmod(0o660)
    return path.name


def half_made_image(world: World) -> str:
    directory = world.image(world.chain[0]).with_name(new_id())
    directory.mkdir()
    path = directory / new_id()
    path.touch(0o660)
    path.chmod(0o660)
    return path.name


def cut_off_deletion(world: World) -> str:
    ref = VolumeRef(world.domain.id, world.raw[0].image_id, VolumeId(new_id()))
    text = world.path(world.raw[0], ".meta").read_bytes().replace(b"LEGALITY=LEGAL", b"LEGALITY=ILLEGAL")
    world.path(ref, ".meta").write_bytes(text)
    return ref.volume_id


def put_aside(world: World) -> str:
    path = world.image(world.raw[0]).with_name(f"_remove_me_{new_id()}")
    path.mkdir()
    (path / new_id()).write_bytes(b"x")
    return path.name


def empty_image(world: World) -> str:
    path = world.image(world.raw[0]).with_name(new_id())
    path.mkdir()
    return path.name


def unfinished_write(world: World) -> str:
    path = world.path(world.raw[0], ".meta.new")
    path.write_bytes(b"DOM")
    return path.name


def no_link(world: World) -> str:
    for end in ("", ".meta"):
        (world.image(world.clone[0]) / f"{world.template[0].volume_id}{end}").unlink()
    return world.template[0].volume_id


def no_link_to_metadata(world: World) -> str:
    (world.image(world.clone[0]) / f"{world.template[0].volume_id}.meta").unlink()
    return world.template[0].volume_id


def no_link_to_data(world: World) -> str:
    (world.image(world.clone[0]) / world.template[0].volume_id).unlink()
    return world.template[0].volume_id


def unused_link(world: World) -> str:
    for end in ("", ".meta"):
        name = f"{world.template[0].volume_id}{end}"
        (world.image(world.raw[0]) / name).hardlink_to(world.image(world.template[0]) / name)
    return world.template[0].volume_id


def half_linked(world: World) -> str:
    """The data of a template, linked into an image that nobody has gone on making."""
    directory = world.image(world.raw[0]).with_name(new_id())
    directory.mkdir()
    name = world.template[0].volume_id
    (directory / name).hardlink_to(world.image(world.template[0]) / name)
    return name


def mode_of_data(world: World) -> str:
    world.path(world.raw[0]).chmod(0o600)
    return world.raw[0].volume_id


def mode_of_metadata(world: World) -> str:
    world.path(world.raw[0], ".meta").chmod(0o600)
    return f"{world.raw[0].volume_id}.meta"


def mode_of_image(world: World) -> str:
    world.image(world.raw[0]).chmod(0o700)
    return world.raw[0].image_id


def mode_of_special_file(world: World) -> str:
    world.special("ids").chmod(0o600)
    return "dom_md/ids"


def short_mailbox(world: World) -> str:
    with world.special("inbox").open("r+b") as file:
        file.truncate(4096)
    return "dom_md/inbox"


def no_mailbox(world: World) -> str:
    world.special("outbox").unlink()
    return "dom_md/outbox"


def leaked_cluster(world: World) -> str:
    """A cluster at the end that is counted and not used."""
    leaf = world.path(world.clone[0])
    data = bytearray(leaf.read_bytes())
    (table,) = struct.unpack_from(">Q", data, 48)
    (block,) = struct.unpack_from(">Q", data, table)
    clusters = -(-len(data) // 65536)
    data.extend(bytes(65536 * (clusters + 1) - len(data)))
    struct.pack_into(">H", data, block + 2 * clusters, 1)
    leaf.write_bytes(data)
    return world.clone[0].volume_id


MENDED: list[tuple[Plant, Word]] = [
    (wrong_kind, Word.KIND),
    (wrong_kind_of_leaf, Word.KIND),
    (no_capacity, Word.CAPACITY),
    (half_made, Word.HALF_MADE),
    (half_made_image, Word.HALF_MADE),
    (cut_off_deletion, Word.DATA_MISSING),
    (put_aside, Word.PUT_ASIDE),
    (empty_image, Word.EMPTY_IMAGE),
    (unfinished_write, Word.UNFINISHED_WRITE),
    (no_link, Word.LINK_MISSING),
    (no_link_to_data, Word.LINK_MISSING),
    (no_link_to_metadata, Word.LINK_MISSING),
    (unused_link, Word.LINK_UNUSED),
    (half_linked, Word.LINK_UNUSED),
    (mode_of_data, Word.MODE),
    (mode_of_metadata, Word.MODE),
    (mode_of_image, Word.MODE),
    (mode_of_special_file, Word.MODE),
    (short_mailbox, Word.SPECIAL_FILE),
    (no_mailbox, Word.SPECIAL_FILE),
]


def files_of(world: World) -> dict[str, tuple[int, int, bytes]]:
    """Everything in the domain but what the mended fault is about: mode, inode and content by name."""
    root = Path(world.domain.path)
    found = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        text = path.read_bytes() if path.is_file() and stat.st_size < 64 * MIB else b""
        found[str(path.relative_to(root))] = (stat.st_mode, stat.st_ino, text)
    return found


@pytest.mark.parametrize(("plant", "word"), MENDED, ids=[plant.__name__ for plant, _ in MENDED])
def test_fault_is_named_and_mended(local: World, plant: Plant, word: Word, before: dict[VolumeRef, str]) -> None:
    untouched = files_of(local)
    end = plant(local)
    (found,) = local.check()
    assert (found.word, found.object.endswith(end), found.fix is not None) == (word, True, True), found
    mended, left = local.repair()
    assert [item.key for item in mended] == [found.key]
    assert left == []
    assert local.check(data=True) == []
    assert local.repair() == ([], [])
    assert local.digests() == before
    after = files_of(local)
    hurt = {Path(found.object).name, f"{Path(found.object).name}.meta", f"{Path(found.object).name}.meta.new"}
    changed = {name for name in untouched.keys() | after.keys() if untouched.get(name) != after.get(name)}
    assert {Path(name).name for name in changed} <= hurt, changed


def test_sizes_of_a_chain_are_mended_together(local: World, before: dict[VolumeRef, str]) -> None:
    small_capacity(local)
    assert [item.word for item in local.check()] == [Word.CAPACITY] * 3
    mended, left = local.repair()
    assert (len(mended), left) == (3, [])
    assert local.check() == []
    assert local.digests() == before


def test_leaked_clusters_are_given_back(local: World, before: dict[VolumeRef, str]) -> None:
    end = leaked_cluster(local)
    assert local.check() == []
    (found,) = local.check(data=True)
    assert (found.word, found.volume_id) == (Word.DATA_LEAKS, end)
    mended, left = local.repair(data=True)
    assert ([item.word for item in mended], left) == ([Word.DATA_LEAKS], [])
    assert local.check(data=True) == []
    assert local.digests() == before


def test_merge_that_was_cut_off_is_ended(local: World) -> None:
    base, top, leaf = local.chain
    content = local.storage.digest(leaf)
    run("qemu-img", "commit", "-q", "-d", "-f", "qcow2", "-b", local.storage.path(base), local.storage.path(top))
    local.change(top, legality=Legality.ILLEGAL)
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base.volume_id, local.storage.path(leaf))
    (found,) = local.check()
    assert (found.word, found.volume_id) == (Word.BACKING, leaf.volume_id), found
    mended, left = local.repair()
    assert [item.word for item in mended] == [Word.BACKING]
    # What was merged is the manager's to delete.
    assert [(item.word, item.volume_id, item.fix) for item in left] == [(Word.LEFTOVER, top.volume_id, None)]
    assert local.storage.digest(leaf) == content
    assert local.domain.backend.volume(leaf).parent == base.volume_id


# Faults that cannot be mended without guessing.


def damaged_metadata(world: World) -> str:
    world.path(world.raw[0], ".meta").write_bytes(b"\xff\x00")
    return world.raw[0].volume_id


def lost_metadata(world: World) -> str:
    world.path(world.chain[0], ".meta").unlink()
    return world.chain[0].volume_id


def lost_metadata_of_data(world: World) -> str:
    world.path(world.raw[0]).write_bytes(b"x" * (3 * MIB))
    world.path(world.raw[0], ".meta").unlink()
    return world.raw[0].volume_id


def lost_data(world: World) -> str:
    world.path(world.raw[0]).unlink()
    return world.raw[0].volume_id


def short_data(world: World) -> str:
    with world.path(world.raw[0]).open("r+b") as file:
        file.truncate(4 * MIB)
    return world.raw[0].volume_id


def second_leaf(world: World) -> str:
    world.change(world.chain[2], orphan=True)
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", world.storage.path(world.chain[2]))
    world.change(world.chain[1], kind=VolumeKind.LEAF)
    return ""


def wrong_backing(world: World) -> str:
    leaf, base = world.chain[2], world.chain[0]
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base.volume_id, world.storage.path(leaf))
    return leaf.volume_id


def hostile_backing(world: World) -> str:
    leaf = world.chain[2]
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", world.storage.path(leaf))
    return leaf.volume_id


def no_header(world: World) -> str:
    with world.path(world.chain[2]).open("r+b") as file:
        file.write(bytes(512))
    return world.chain[2].volume_id


def foreign_link(world: World) -> str:
    path = world.image(world.clone[0]) / world.template[0].volume_id
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o660)
    return path.name


def no_template(world: World) -> str:
    name = world.template[0].volume_id
    for directory in (world.image(world.clone[0]), world.image(world.template[0])):
        for end in ("", ".meta"):
            (directory / f"{name}{end}").unlink()
    world.image(world.template[0]).rmdir()
    return world.clone[0].volume_id


def stray(world: World) -> str:
    (world.image(world.raw[0]) / "notes.txt").write_text("mine")
    return "notes.txt"


def stray_image(world: World) -> str:
    (world.image(world.raw[0]).with_name("lost+found")).mkdir()
    return "lost+found"


def damaged_domain(world: World) -> str:
    path = world.special("metadata")
    path.write_bytes(path.read_bytes().replace(b"DESCRIPTION=a", b"DESCRIPTION=b"))
    return "dom_md/metadata"


def illegal_parent(world: World) -> str:
    world.change(world.chain[1], legality=Legality.ILLEGAL)
    return world.chain[1].volume_id


LEFT: list[tuple[Plant, Word]] = [
    (damaged_metadata, Word.METADATA_DAMAGED),
    (lost_metadata, Word.METADATA_MISSING),
    (lost_metadata_of_data, Word.METADATA_MISSING),
    (lost_data, Word.DATA_MISSING),
    (short_data, Word.DATA_SIZE),
    (wrong_backing, Word.BACKING),
    (hostile_backing, Word.HEADER),
    (no_header, Word.HEADER),
    (foreign_link, Word.LINK_WRONG),
    (no_template, Word.PARENT_MISSING),
    (stray, Word.STRAY),
    (stray_image, Word.STRAY),
    (damaged_domain, Word.DOMAIN_METADATA),
    (illegal_parent, Word.ILLEGAL_PARENT),
]


@pytest.mark.parametrize(("plant", "word"), LEFT, ids=[plant.__name__ for plant, _ in LEFT])
def test_what_cannot_be_known_is_left(local: World, plant: Plant, word: Word) -> None:
    end = plant(local)
    untouched = files_of(local)
    (found,) = local.check()
    assert (found.word, found.object.endswith(end), found.fix) == (word, True, None), found
    assert found.remedy
    assert local.repair() == ([], [found])
    assert files_of(local) == untouched


def test_two_leaves_are_both_named(local: World) -> None:
    second_leaf(local)
    untouched = files_of(local)
    found = local.check()
    assert {(item.word, item.volume_id) for item in found} == {
        (Word.SECOND_LEAF, local.chain[1].volume_id),
        (Word.SECOND_LEAF, local.chain[2].volume_id),
    }
    assert local.repair() == ([], found)
    assert files_of(local) == untouched


# Leases are on shared domains only.


def no_lease(world: World) -> str:
    world.path(world.raw[0], ".lease").unlink()
    return world.raw[0].volume_id


def empty_lease(world: World) -> str:
    path = world.path(world.raw[0], ".lease")
    path.write_bytes(bytes(path.stat().st_size))
    return world.raw[0].volume_id


def no_linked_lease(world: World) -> str:
    (world.image(world.clone[0]) / f"{world.template[0].volume_id}.lease").unlink()
    return world.template[0].volume_id


def index_without_lease(world: World) -> str:
    index = LeaseIndex(world.domain, world.areas)
    lease_id = LeaseId(new_id())
    index.grow(0)
    index.write_record(0, lease_id)
    return "dom_md/xleases"


def index_being_rebuilt(world: World) -> str:
    shape = world.domain.geometry
    with world.special("xleases").open("r+b") as file:
        file.seek(xleases.index_offset(shape))
        file.write(xleases.flagged(xleases.format_index(world.domain.id, NOW_S), shape)[: shape.block_size])
    return "dom_md/xleases"


SHARED: list[tuple[Plant, Word]] = [
    (no_lease, Word.LEASE_MISSING),
    (empty_lease, Word.LEASE_DAMAGED),
    (no_linked_lease, Word.LINK_MISSING),
    (index_without_lease, Word.EXTERNAL_LEASES),
    (index_being_rebuilt, Word.EXTERNAL_LEASES),
]


@pytest.mark.parametrize(("plant", "word"), SHARED, ids=[plant.__name__ for plant, _ in SHARED])
def test_leases_are_mended(shared: World, plant: Plant, word: Word, before: dict[VolumeRef, str]) -> None:
    end = plant(shared)
    (found,) = shared.check()
    assert (found.word, found.object.endswith(end)) == (word, True), found
    mended, left = shared.repair()
    assert ([item.key for item in mended], left) == ([found.key], [])
    assert shared.check() == []
    assert shared.digests() == before


def foreign_lease(world: World) -> str:
    world.path(world.raw[0], ".lease").write_bytes(world.path(world.chain[0], ".lease").read_bytes())
    return world.raw[0].volume_id


def no_lockspace(world: World) -> str:
    with world.special("ids").open("r+b") as file:
        file.write(bytes(512))
    return "dom_md/ids"


def short_lockspace(world: World) -> str:
    with world.special("ids").open("r+b") as file:
        file.truncate(512)
    return "dom_md/ids"


def no_pool_lease(world: World) -> str:
    path = world.special("leases")
    path.write_bytes(bytes(path.stat().st_size))
    return "dom_md/leases"


SHARED_LEFT: list[tuple[Plant, Word]] = [
    (foreign_lease, Word.LEASE_DAMAGED),
    (no_lockspace, Word.LOCKSPACE),
    (short_lockspace, Word.SPECIAL_FILE),
    (no_pool_lease, Word.POOL_LEASE),
]


@pytest.mark.parametrize(("plant", "word"), SHARED_LEFT, ids=[plant.__name__ for plant, _ in SHARED_LEFT])
def test_leases_that_others_may_hold_are_left(shared: World, plant: Plant, word: Word) -> None:
    end = plant(shared)
    untouched = files_of(shared)
    (found,) = shared.check()
    assert (found.word, found.object.endswith(end), found.fix) == (word, True, None), found
    assert shared.repair() == ([], [found])
    assert files_of(shared) == untouched


# What is under way is nobody's fault.


def test_image_that_an_operation_holds_is_left_to_it(local: World) -> None:
    name = half_made(local)
    claim = wants.of_image(ImageRef(local.domain.id, local.chain[0].image_id))
    with local.locks.hold("createVolume 1", claim, timeout_s=1):
        found = local.checker.check(local.domain.id)
        assert found.findings == ()
        assert [item.reason for item in found.skipped] == ["createVolume 1 is at work on it"]
        assert local.repair() == ([], [])
    assert (local.image(local.chain[0]) / name).exists()
    assert [item.word for item in local.repair()[0]] == [Word.HALF_MADE]


def test_unsettled_operation_of_the_pool_is_told(local: World) -> None:
    backend = local.domain.backend
    backend.write_domain(replace(backend.read_domain(), role=DomainRole.MASTER))
    master.prepare(local.domain)
    record = Record(
        id=new_id(),
        kind="createVolume",
        version=1,
        arguments=msgspec.Raw(b"{}"),
        decided=True,
        steps=("one",),
        begun="2026-11-22T12:00:00Z",
        phase=Phase.RUNNING,
    )
    master.journal_of(local.domain).write(record)
    (found,) = local.check()
    assert (found.word, found.fix, record.id in found.object) == (Word.OPERATION, None, True)
    managed = local.checker.check(local.domain.id, managed=True)
    assert (managed.findings, [item.reason for item in managed.skipped]) == ((), ["createVolume is running"])


def test_many_faults_at_once_are_all_mended(local: World, before: dict[VolumeRef, str]) -> None:
    for plant, _ in MENDED:
        if plant not in {wrong_kind_of_leaf, no_link_to_data, no_link_to_metadata, half_made_image}:
            plant(local)
    mended, left = local.repair()
    assert left == []
    # The mode of metadata is right again when it has been rewritten.
    assert {item.word for item in mended} == {word for _, word in MENDED}
    assert local.check(data=True) == []
    assert local.digests() == before


def test_one_image_is_checked_alone(local: World) -> None:
    end = wrong_kind(local)
    half_made_image(local)
    found = local.checker.check(local.domain.id, image_id=local.chain[0].image_id)
    assert [item.volume_id for item in found.findings] == [end]
    assert (found.images, found.volumes) == (1, 3)


def test_original_s_domain_is_sound(tmp_path: Path) -> None:
    unpack_sample(tmp_path)
    domain = reopen(tmp_path)
    storage = Storage(domain)
    checker = DomainChecker(storage.find, SectorAreas(), storage.images, Locks())
    found = checker.check(domain.id)
    assert [(item.word, item.object, item.what) for item in found.findings] == []
    assert found.images > 0


class Killed(BaseException):
    """The process has ended."""


class Mortal:
    """Files that end the process after so many changes."""

    CHANGES = frozenset({
        *("create", "replace", "write_at", "truncate", "allocate", "touch", "mkdir", "rmdir"),
        *("rename", "link", "unlink", "chmod"),
    })

    def __init__(self, files: FileAccess) -> None:
        self._files = files
        self.left = 1

    def __getattr__(self, name: str) -> object:
        call = getattr(self._files, name)
        if name not in self.CHANGES:
            return call

        def last(*args: object, **named: object) -> None:
            call(*args, **named)
            self.left -= 1
            if not self.left:
                raise Killed

        return last


def test_repair_that_is_killed_after_each_change_is_done_again(shared: World, before: dict[VolumeRef, str]) -> None:
    for plant, _ in [*MENDED, *SHARED]:
        if plant not in {
            wrong_kind_of_leaf,
            no_link_to_data,
            no_link_to_metadata,
            half_made_image,
            empty_lease,
            index_being_rebuilt,
        }:
            plant(shared)
    whole = shared.domain
    mortal = Mortal(whole.files)
    files = cast("FileAccess", mortal)
    described = whole.backend.read_domain()
    backend = FileBackend(files, whole.mount, described, QemuImageMaker(), shared.areas)
    kills = 0
    while True:
        shared.storage.domains[whole.id] = replace(whole, files=files, backend=backend)
        mortal.left = 1 + kills % 3  # one change may be the first half of a fix
        try:
            shared.repair()
        except Killed:
            kills += 1
            assert kills < 100
            continue
        finally:
            shared.storage.domains[whole.id] = whole
        break
    assert kills > 8
    assert shared.check(data=True) == []
    assert shared.digests() == before
