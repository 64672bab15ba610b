"""A domain that the original wrote is read as its listing says, and one that we write is what the facts say."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from needs import needs, require
from storage_domains import NOW_S, SAMPLE_ID, Areas, Full, file_domain, metadata, unpack_sample
from vdsm.base.errors import VdsmError
from vdsm.storage import plans
from vdsm.storage.backend import Area, Inventory
from vdsm.storage.chain import differences
from vdsm.storage.domains.domain_maker import NewDomain, create_domain, described, remove_domain
from vdsm.storage.errors import (
    BrokenSeal,
    Damaged,
    DomainExists,
    MissingKey,
    NoSpace,
    NoSuchDomain,
    StorageFailed,
    VolumeNotMade,
    WrongBlockSize,
)
from vdsm.storage.executor import carry_out
from vdsm.storage.files.file_backend import FileBackend
from vdsm.storage.files.files import FileDomainReader, find_domain
from vdsm.storage.files.image_maker import QemuImageMaker
from vdsm.storage.files.localfiles import LocalFiles, LocalReader
from vdsm.storage.formats.leases import MIB, Geometry
from vdsm.storage.formats.xleases import Index
from vdsm.storage.ids import DomainId, ImageId, ImageRef, VolumeId, VolumeRef
from vdsm.storage.kinds import Allocation, AttachedStatus, DomainRole, StorageType, VolumeFormat, VolumeKind
from vdsm.storage.plans import NewVolume
from vdsm.storage.steps import Plan

pytestmark = needs("program:qemu-img")

END = "1001-4000-8000-0000000010ca"


def image(letter: str) -> ImageRef:
    return ImageRef(SAMPLE_ID, ImageId(f"{letter}0000000-{END}"))


def volume(letter: str, number: int) -> VolumeId:
    return VolumeId(f"{letter}000000{number}-{END}")


# What the original's listing says: image, volume, length, capacity, format, allocation, kind, parent, sequence,
# generation.
LISTED = [
    ("a", volume("a", 1), 1073741824, 1073741824, "RAW", "SPARSE", "LEAF", None, 0, 0),
    ("b", volume("b", 1), 67108864, 67108864, "RAW", "PREALLOCATED", "INTERNAL", None, 1, 0),
    ("b", volume("b", 2), 196616, 67108864, "COW", "SPARSE", "INTERNAL", volume("b", 1), 2, 0),
    ("b", volume("b", 3), 1376256, 67108864, "COW", "SPARSE", "LEAF", volume("b", 2), 3, 1),
    ("c", volume("c", 1), 196616, 134217728, "COW", "SPARSE", "SHARED", None, 0, 0),
    ("d", volume("d", 1), 196616, 134217728, "COW", "SPARSE", "LEAF", volume("c", 1), 0, 0),
    ("e", volume("e", 1), 196768, 10737418240, "COW", "SPARSE", "LEAF", None, 0, 0),
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    unpack_sample(root)
    return root


@pytest.fixture
def reader(sample: Path) -> FileDomainReader:
    return FileDomainReader(LocalReader(), str(sample), SAMPLE_ID, direct=True)


# Reading


def test_sample_is_found_and_described(sample: Path, reader: FileDomainReader) -> None:
    assert find_domain(LocalReader(), str(sample)) == SAMPLE_ID
    found = reader.read_domain()
    assert (found.version, found.storage_type, found.role) == (5, StorageType.LOCALFS, DomainRole.MASTER)
    assert found.description == "sample-localfs"
    assert found.pools == (f"5bb00001-{END}",)
    assert found.geometry == Geometry(512, MIB)
    assert found.pool is not None
    assert found.pool.domains == {SAMPLE_ID: AttachedStatus.ACTIVE}
    assert found.others == {}


def test_sample_s_images_volumes_sizes_and_chains_are_those_of_its_listing(reader: FileDomainReader) -> None:
    contents = reader.images()
    assert contents.damaged == {}
    assert sorted(contents.images) == [image(letter) for letter in "abcde"]
    found = []
    for ref, each in sorted(contents.images.items()):
        for ident, item in sorted(each.volumes.items()):
            length = reader.data(VolumeRef(SAMPLE_ID, ref.image_id, ident)).apparent
            words = (item.format.value, item.allocation.value, item.kind.value)
            found.append((
                ref.image_id[0],
                ident,
                length,
                item.capacity,
                *words,
                item.parent,
                item.sequence,
                item.generation,
            ))
    assert found == LISTED
    assert {ref.image_id[0]: differences(each) for ref, each in contents.images.items()} == dict.fromkeys("abcde", ())
    assert contents.images[image("b")].chain() == (volume("b", 1), volume("b", 2), volume("b", 3))
    assert contents.images[image("d")].chain() == (volume("d", 1),)
    assert contents.images[image("d")].template() == volume("c", 1)
    assert contents.images[image("d")].shared == contents.images[image("c")].volumes
    descriptions = [json.loads(each.volumes[each.chain()[0]].description) for each in contents.images.values()]
    assert sorted(each["DiskAlias"] for each in descriptions) == [
        "chain",
        "qcow2",
        "raw-sparse",
        "template",
        "vm-on-template",
    ]


def test_sample_read_one_by_one_is_the_same(reader: FileDomainReader) -> None:
    contents = reader.images()
    for ref, each in contents.images.items():
        assert reader.image(ref.image_id) == each
        for ident, item in {**each.volumes, **each.shared}.items():
            assert reader.volume(VolumeRef(SAMPLE_ID, ref.image_id, ident)) == item
    assert reader.inventory() == Inventory(
        images={ref.image_id: tuple(sorted({*each.volumes, *each.shared})) for ref, each in contents.images.items()}
    )


def test_sample_s_qcow2_headers_agree_with_its_metadata(reader: FileDomainReader) -> None:
    for ref, each in reader.images().images.items():
        for ident, item in each.volumes.items():
            said = qemu_info(Path(reader.data_path(VolumeRef(SAMPLE_ID, ref.image_id, ident))), item.format)
            assert said["virtual-size"] == item.capacity
            assert said.get("backing-filename") == item.parent


def qemu_info(path: Path, kind: VolumeFormat) -> dict[str, object]:
    argv = ["qemu-img", "info", "--output=json", "-f", kind.qemu, str(path)]
    found: dict[str, object] = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout)
    return found


# Damaged domains


@pytest.fixture
def damaged(tmp_path: Path) -> FileDomainReader:
    unpack_sample(tmp_path)
    return FileDomainReader(LocalReader(), str(tmp_path), SAMPLE_ID, direct=False)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", Damaged),
        (b"\0" * 512, Damaged),
        (os.urandom(512), VdsmError),
        (b"VERSION=5\nSDUUID=x\n_SHA_CKSUM=0\n", BrokenSeal),
        (b"VERSION=5\n", MissingKey),
    ],
)
def test_damaged_domain_metadata_is_a_clear_error(
    damaged: FileDomainReader, content: bytes, error: type[Exception]
) -> None:
    (Path(damaged.path) / "dom_md" / "metadata").write_bytes(content)
    with pytest.raises(error):
        damaged.read_domain()


def test_missing_and_foreign_domain_metadata(damaged: FileDomainReader, tmp_path: Path) -> None:
    other = DomainId(SAMPLE_ID.replace("ca", "cb"))
    Path(damaged.path).rename(tmp_path / other)
    with pytest.raises(NoSuchDomain):
        damaged.read_domain()
    with pytest.raises(Damaged):
        FileDomainReader(LocalReader(), str(tmp_path), other, direct=False).read_domain()


def test_one_damaged_volume_is_named_and_the_others_are_read(damaged: FileDomainReader) -> None:
    bad = VolumeRef(SAMPLE_ID, image("e").image_id, volume("e", 1))
    Path(damaged.meta_path(bad)).write_bytes(b"\xff" * 100_000)
    contents = damaged.images()
    assert set(contents.damaged) == {bad}
    assert isinstance(contents.damaged[bad], Damaged)
    assert contents.images[image("e")].volumes == {}
    assert contents.images[image("b")].chain()[0] == volume("b", 1)
    with pytest.raises(Damaged):
        damaged.image(bad.image_id)


def test_directory_and_link_in_the_place_of_files_are_not_followed(damaged: FileDomainReader) -> None:
    bad = VolumeRef(SAMPLE_ID, image("e").image_id, volume("e", 1))
    Path(damaged.meta_path(bad)).unlink()
    Path(damaged.meta_path(bad)).mkdir()
    Path(damaged.data_path(bad)).unlink()
    Path(damaged.data_path(bad)).symlink_to("/etc/passwd")
    assert isinstance(damaged.images().damaged[bad], StorageFailed)
    with pytest.raises(Damaged):
        damaged.data(bad)


def test_strays_half_made_and_removed_are_told_apart(damaged: FileDomainReader) -> None:
    images = Path(damaged.images_path)
    (images / "lost+found").mkdir()
    (images / "a file").write_text("x")
    (images / image("a").image_id / "notes.txt").write_text("x")
    (images / image("a").image_id / f"{volume('a', 9)}.meta.new").write_text("x")
    (images / image("a").image_id / volume("a", 8)).write_bytes(b"")
    (images / f"_remove_me_{image('f').image_id}").mkdir()
    found = damaged.inventory()
    assert found.half_made == (VolumeRef(SAMPLE_ID, image("a").image_id, volume("a", 8)),)
    assert found.removed == (image("f").image_id,)
    assert set(found.strays) == {
        f"{image('a').image_id}/{volume('a', 9)}.meta.new",
        f"{image('a').image_id}/notes.txt",
        "a file",
        "lost+found",
    }
    assert damaged.images().damaged == {}


def test_two_domains_in_one_file_system_are_refused(damaged: FileDomainReader, tmp_path: Path) -> None:
    (tmp_path / SAMPLE_ID.replace("ca", "cb") / "dom_md").mkdir(parents=True)
    with pytest.raises(Damaged):
        find_domain(LocalReader(), str(tmp_path))


# Writing


def verify(root: Path) -> None:
    """What an independent reader of the format checks (not with the project's own code)."""
    for path in root.glob("*/dom_md/metadata"):
        pairs = dict(line.split("=", 1) for line in path.read_text("utf-8").split("\n") if line)
        declared = pairs.pop("_SHA_CKSUM")
        digest = hashlib.sha1()
        for key in sorted(pairs):
            digest.update(f"{key}={pairs[key]}".encode("ascii", "xmlcharrefreplace"))
        assert declared == digest.hexdigest()
        assert (path.parent / "inbox").read_bytes() == (path.parent / "outbox").read_bytes() == bytes(16 << 20)
    for path in root.glob("*/images/*/*.meta"):
        data = path.read_bytes()
        assert len(data) <= 512
        assert data.endswith(b"\nEOF\n")
        keys = [line.split(b"=")[0] for line in data.splitlines()[:-1]]
        assert keys == sorted(keys)


def listing(root: Path) -> dict[str, tuple[str, int]]:
    """Mode and length of everything below, directories without length."""
    found = {}
    for path in root.rglob("*"):
        facts = path.lstat()
        size = facts.st_size if stat.S_ISREG(facts.st_mode) else 0
        found[str(path.relative_to(root))] = (stat.filemode(facts.st_mode), size)
    return found


def do(backend: FileBackend, plan: Plan) -> None:
    for step in plan:
        carry_out(step, backend, mover=None)  # type: ignore[arg-type] # no plan here moves data


def add(backend: FileBackend, letter: str, number: int, capacity: int, **facts: object) -> VolumeRef:
    ref = VolumeRef(backend.domain_id, image(letter).image_id, volume(letter, number))
    request = replace(NewVolume(ref, capacity, NOW_S), **facts)  # type: ignore[arg-type]
    do(backend, plans.create(backend.images().images, request))
    return ref


def write_the_sample_anew(backend: FileBackend) -> None:
    """The volumes of the sample, made by us."""
    alias = '{{"DiskAlias":"{}","DiskDescription":""}}'
    raw = VolumeFormat.RAW
    add(backend, "a", 1, 1 << 30, format=raw, description=alias.format("raw-sparse"))
    full = Allocation.PREALLOCATED
    base = add(backend, "b", 1, 64 * MIB, format=raw, allocation=full, description=alias.format("chain"), sequence=1)
    middle = add(backend, "b", 2, 64 * MIB, parent=base, sequence=2)
    add(backend, "b", 3, 64 * MIB, parent=middle, sequence=3)
    template = add(backend, "c", 1, 128 * MIB, description=alias.format("template"))
    add(backend, "d", 1, 128 * MIB, parent=template, description=alias.format("vm-on-template"))
    add(backend, "e", 1, 10 << 30, description=alias.format("qcow2"))


def test_our_copy_of_the_sample_has_its_names_modes_sizes_and_texts(sample: Path, tmp_path: Path) -> None:
    theirs = FileDomainReader(LocalReader(), str(sample), SAMPLE_ID, direct=False)
    usual = os.umask(0o077)  # modes are the format's, whatever the process was started with
    try:
        backend = file_domain(LocalFiles(), tmp_path, theirs.read_domain())
        write_the_sample_anew(backend)
    finally:
        os.umask(usual)
    verify(tmp_path)
    ours, original = listing(tmp_path), listing(sample)
    written = {name: facts for name, facts in original.items() if "/master" not in name}
    # The original's leaf has data in it, and its stand-alone image a bitmap.
    for name in (
        f"{SAMPLE_ID}/images/{image('b').image_id}/{volume('b', 3)}",
        f"{SAMPLE_ID}/images/{image('e').image_id}/{volume('e', 1)}",
    ):
        assert ours[name][0] == written[name][0]
        del ours[name], written[name]
    assert ours == written
    for name in written:
        if name.endswith((".meta", "/metadata")) and volume("b", 3) not in name:
            text, was = (tmp_path / name).read_text(), (sample / name).read_text()
            assert re.sub(r"CTIME=\d+", "", text) == re.sub(r"CTIME=\d+", "", was), name


def test_our_volumes_are_linked_and_headed_as_the_original_s(tmp_path: Path) -> None:
    backend = file_domain(LocalFiles(), tmp_path, metadata())
    write_the_sample_anew(backend)
    for ref, each in backend.images().images.items():
        assert differences(each) == ()
        for ident, item in each.volumes.items():
            path = Path(backend.data_path(VolumeRef(backend.domain_id, ref.image_id, ident)))
            said = qemu_info(path, item.format)
            assert said["virtual-size"] == item.capacity
            assert said.get("backing-filename") == item.parent
            if item.format is VolumeFormat.COW:
                assert said["cluster-size"] == 65536
                assert said["format-specific"]["data"]["compat"] == "1.1"  # type: ignore[index]
                below = each.below(item.parent) if item.parent else None
                assert said.get("backing-filename-format") == (below.format.qemu if below else None)
    home = Path(backend.image_path(image("c").image_id))
    clone = Path(backend.image_path(image("d").image_id))
    for name in (volume("c", 1), f"{volume('c', 1)}.meta"):
        assert (home / name).stat().st_ino == (clone / name).stat().st_ino
    base = Path(backend.image_path(image("b").image_id)) / volume("b", 1)
    assert base.stat().st_blocks * 512 >= 64 * MIB
    assert 4096 <= Path(f"{backend.image_path(image('a').image_id)}/{volume('a', 1)}").stat().st_blocks * 512 < MIB


@pytest.mark.parametrize(
    ("described", "files"),
    [
        (
            metadata(StorageType.NFS),
            {"ids": MIB, "leases": 2 * MIB, "xleases": MIB + 253952, "inbox": 16 * MIB, "outbox": 16 * MIB},
        ),
        (metadata(StorageType.POSIXFS, 3), {"ids": MIB, "leases": 2 * MIB, "inbox": 16 * MIB, "outbox": 16 * MIB}),
    ],
    ids=["v5", "v3"],
)
def test_shared_domain_has_its_areas_and_leases(tmp_path: Path, described: object, files: dict[str, int]) -> None:
    assert isinstance(described, type(metadata()))
    areas = Areas()
    backend = file_domain(LocalFiles(), tmp_path, described, areas)
    place = Path(backend.path) / "dom_md"
    assert {path.name: path.stat().st_size for path in place.iterdir() if path.name != "metadata"} == files
    assert {stat.S_IMODE((place / name).stat().st_mode) for name in files} == {0o660}
    assert stat.S_IMODE((place / "metadata").stat().st_mode) == 0o644
    assert [(record.lockspace, record.path, record.offset) for record in areas.lockspaces] == [
        (described.domain_id, str(place / "ids"), 0)
    ]
    assert [(record.resource, record.path, record.offset) for record in areas.resources] == [
        ("SDM", str(place / "leases"), MIB)
    ]
    ref = add(backend, "a", 1, MIB, format=VolumeFormat.RAW)
    lease = Path(backend.lease_path(ref))
    assert (lease.stat().st_size, stat.S_IMODE(lease.stat().st_mode)) == (MIB, 0o660)
    assert areas.resources[-1] == backend.volume_lease(ref)
    text = Path(backend.meta_path(ref)).read_text()
    assert ("SIZE=2048\n" in text and "MTIME=0\n" in text) is (described.version == 3)
    clone = add(backend, "d", 1, MIB, parent=ref)
    linked = Path(backend.lease_path(VolumeRef(ref.domain_id, clone.image_id, ref.volume_id)))
    assert linked.stat().st_ino == lease.stat().st_ino
    verify(tmp_path)


def test_fresh_index_of_external_leases_is_empty_and_ready(tmp_path: Path) -> None:
    backend = file_domain(LocalFiles(), tmp_path, metadata(StorageType.NFS), Areas())
    data = backend.area(Area.XLEASES).read(MIB, 253952)
    index = Index(data, Geometry(), "fresh")
    assert (index.lockspace, index.time_s, list(index.records())) == (backend.domain_id, NOW_S, [])


def test_version_3_makes_old_qcow2(tmp_path: Path) -> None:
    backend = file_domain(LocalFiles(), tmp_path, metadata(StorageType.POSIXFS, 3), Areas())
    ref = add(backend, "a", 1, MIB)
    said = qemu_info(Path(backend.data_path(ref)), VolumeFormat.COW)
    assert said["format-specific"]["data"]["compat"] == "0.10"  # type: ignore[index]


def test_domain_is_made_once_and_taken_away_whole(tmp_path: Path) -> None:
    backend = file_domain(LocalFiles(), tmp_path, metadata())
    with pytest.raises(DomainExists):
        create_domain(LocalFiles(), str(tmp_path), metadata(), lambda: None, now_s=NOW_S)
    ref = add(backend, "a", 1, MIB)
    again = file_domain_in(tmp_path / "other")
    add(again, "a", 1, MIB)
    remove_domain(LocalFiles(), str(tmp_path / "other"), again.domain_id)
    remove_domain(LocalFiles(), str(tmp_path / "other"), again.domain_id)
    assert list((tmp_path / "other").iterdir()) == []
    assert Path(backend.data_path(ref)).exists()


def file_domain_in(root: Path) -> FileBackend:
    root.mkdir()
    return file_domain(LocalFiles(), root, metadata())


def test_full_file_system_at_each_write_leaves_nothing_of_a_domain(tmp_path: Path) -> None:
    refused = 0
    while True:
        try:
            file_domain(Full(refused), tmp_path, metadata(StorageType.NFS), Areas())
        except NoSpace:
            refused += 1
            assert list(tmp_path.iterdir()) == []
        else:
            break
    assert refused == 14


def test_full_file_system_at_each_write_leaves_no_half_volume_that_anybody_sees(tmp_path: Path) -> None:
    described = metadata()
    good = file_domain(LocalFiles(), tmp_path, described)
    base = add(good, "a", 1, MIB, format=VolumeFormat.RAW)
    refused = 0
    while True:
        backend = FileBackend(Full(refused), str(tmp_path), described, QemuImageMaker(), None)
        try:
            add(backend, "a", 2, MIB, parent=base)
        except NoSpace:
            refused += 1
            found = good.images()
            assert found.damaged == {}
            assert found.images[base_image(good)].chain() == (base.volume_id,)
        else:
            break
    assert refused == 3  # the parent's metadata, the directory, then the new file: after that there was room
    assert good.volume(base).kind is VolumeKind.INTERNAL


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for one empty qcow2 image and some metadata."""
    require("root")
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "small", str(root)], check=True, timeout=30)
    yield root
    subprocess.run(["umount", "-l", str(root)], check=True, timeout=30)


def test_file_system_that_is_really_full_refuses_and_goes_on(small: Path) -> None:
    backend = file_domain(LocalFiles(), small, metadata())
    base = add(backend, "a", 1, MIB)
    for facts in ({}, {"format": VolumeFormat.RAW, "allocation": Allocation.PREALLOCATED}):
        with pytest.raises(NoSpace) as refused:
            add(backend, "b", 1, MIB, **facts)
        assert refused.value.code == 397
    found = backend.inventory()
    assert found.images[base.image_id] == (base.volume_id,)
    assert [half.volume_id for half in found.half_made] == [volume("b", 1)]
    assert backend.images().damaged == {}
    backend.delete(found.half_made[0])
    add(backend, "b", 1, MIB, format=VolumeFormat.RAW)
    assert backend.inventory().half_made == ()


def test_file_system_that_is_read_only_refuses_and_is_read(small: Path) -> None:
    backend = file_domain(LocalFiles(), small, metadata())
    base = add(backend, "a", 1, MIB)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True, timeout=30)
    assert backend.space().read_only
    described = backend.volume(base)
    for change in (
        lambda: add(backend, "b", 1, MIB),
        lambda: backend.write_domain(backend.read_domain()),
        lambda: backend.rewrite(base, described),
        lambda: backend.delete(base),
        lambda: backend.remove_image(base.image_id),
    ):
        with pytest.raises(StorageFailed) as refused:
            change()
        assert "Read-only" in str(refused.value)
    assert backend.image(base.image_id).chain() == (base.volume_id,)


def test_what_qemu_img_refuses_is_a_volume_that_was_not_made(tmp_path: Path) -> None:
    with pytest.raises(VolumeNotMade):
        QemuImageMaker().create_qcow2(str(tmp_path), MIB, compatibility="1.1", backing=None, backing_format=None)


def base_image(backend: FileBackend) -> ImageRef:
    return ImageRef(backend.domain_id, image("a").image_id)


def test_sectors_are_those_of_the_storage(tmp_path: Path) -> None:
    request = NewDomain(metadata().domain_id, StorageType.GLUSTERFS, "server:/x", block_size=4096)
    with pytest.raises(WrongBlockSize):
        described(LocalFiles(), str(tmp_path), request)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["[fe80::1]:_x", "a b", "ünï", "*?[!a]", "new\nline", "q'u\"o"])
def test_ugly_mount_point_is_no_trouble(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    root = tmp_path / name
    backend = file_domain_in(root)
    ref = add(backend, "b", 1, MIB)
    leaf = add(backend, "b", 2, MIB, parent=ref)
    assert backend.image(ref.image_id).chain() == (ref.volume_id, leaf.volume_id)
    assert find_domain(LocalReader(), str(root)) == backend.domain_id
