"""The on-disk formats, against texts and bytes that the original wrote."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_samples import BLOCK_DOMAIN_TAGS, FILE_DOMAIN, V3_DOMAIN, V3_VOLUME, V5_LARGE_DOMAIN, V5_VOLUME
from vdsm.storage.errors import (
    BadValue,
    BrokenSeal,
    Damaged,
    InvalidParameter,
    MetadataOverflow,
    MissingKey,
    NoSpace,
    UnsupportedVersion,
)
from vdsm.storage.formats import block, leases, mounts, sealed, tree
from vdsm.storage.formats.domain import DomainMetadata, PhysicalVolume, decode_domain, encode_domain
from vdsm.storage.formats.leases import MIB, Geometry
from vdsm.storage.formats.pool import PoolMetadata
from vdsm.storage.formats.volume import VolumeMetadata, decode_volume, encode_slot, encode_volume, tidy_description
from vdsm.storage.ids import DomainId, ImageId, PoolId, VolumeId, is_uuid, new_id, parse_parent_id, parse_volume_id
from vdsm.storage.kinds import (
    Allocation,
    AttachedStatus,
    DomainClass,
    DomainRole,
    StorageType,
    VolumeFormat,
    VolumeKind,
)

DOMAIN = DomainId("5da00001-1001-4000-8000-0000000010ca")
IMAGE = ImageId("b0000000-1001-4000-8000-0000000010ca")
LINE = st.text(st.characters(exclude_categories=("Cs",)), max_size=40).filter(
    lambda text: "".join(text.splitlines()) == text and "\0" not in text
)


def without_seal(text: str, **changes: str | None) -> bytes:
    """A domain's metadata with other values and the checksum that belongs to them."""
    pairs = sealed.decode(text.encode(), "sample")
    for key, value in changes.items():
        pairs.pop(key, None)
        if value is not None:
            pairs[key] = value
    return sealed.encode(pairs)


# A domain's metadata


@pytest.mark.parametrize("text", [FILE_DOMAIN, V3_DOMAIN, V5_LARGE_DOMAIN])
def test_domain_that_the_original_wrote_is_written_back_byte_for_byte(text: str) -> None:
    assert encode_domain(decode_domain(text.encode(), "sample")) == text.encode()


def test_domain_is_read() -> None:
    assert decode_domain(FILE_DOMAIN.encode() + bytes(100), "sample") == DomainMetadata(
        domain_id=DOMAIN,
        storage_type=StorageType.LOCALFS,
        version=5,
        domain_class=DomainClass.DATA,
        role=DomainRole.MASTER,
        description="sample-localfs",
        pools=(PoolId("5bb00001-1001-4000-8000-0000000010ca"),),
        remote_path="/tmp/research/run/storage/localfs",
        geometry=Geometry(512, MIB),
        leases=replace(DomainMetadata(DOMAIN, StorageType.LOCALFS).leases, policy="ON"),
        pool=PoolMetadata(1, "sample-dc", {DOMAIN: AttachedStatus.ACTIVE}, -1, -1),
    )


def test_domain_of_version_3_has_the_usual_geometry_and_sectors_of_4096_their_own() -> None:
    assert decode_domain(V3_DOMAIN.encode(), "sample").geometry == Geometry(512, MIB)
    assert decode_domain(V5_LARGE_DOMAIN.encode(), "sample").geometry == Geometry(4096, 8 * MIB)


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (FILE_DOMAIN.replace("=Data", "=Iso").encode(), BrokenSeal, "checksum"),
        (FILE_DOMAIN.encode()[:300].replace(b"_SHA", b""), MissingKey, "VERSION"),
        (b"", Damaged, "empty"),
        (bytes(4096), Damaged, "empty"),
        (b"\xff\xfe" * 200, Damaged, "UTF-8"),
        (without_seal(FILE_DOMAIN, VERSION="6"), UnsupportedVersion, "6"),
        (without_seal(FILE_DOMAIN, VERSION="2"), UnsupportedVersion, "2"),
        (without_seal(FILE_DOMAIN, TYPE="localfs"), BadValue, "TYPE"),
        (without_seal(FILE_DOMAIN, ROLE="King"), BadValue, "ROLE"),
        (without_seal(FILE_DOMAIN, SDUUID="5DA00001-1001-4000-8000-0000000010CA"), BadValue, "SDUUID"),
        (without_seal(FILE_DOMAIN, BLOCK_SIZE="1024"), BadValue, "block_size"),
        (without_seal(FILE_DOMAIN, ALIGNMENT="x"), BadValue, "x"),
        (without_seal(FILE_DOMAIN, ALIGNMENT=str(2 * MIB)), BadValue, "alignment"),
        (without_seal(FILE_DOMAIN, VERSION="4", BLOCK_SIZE="4096"), BadValue, "version 4"),
        (without_seal(FILE_DOMAIN, POOL_UUID="x"), BadValue, "POOL_UUID"),
        (without_seal(FILE_DOMAIN, POOL_DOMAINS="x:Active"), BadValue, "POOL_DOMAINS"),
        (without_seal(FILE_DOMAIN, MASTER_VERSION="one"), BadValue, "MASTER_VERSION"),
        (without_seal(FILE_DOMAIN, CLASS=None), MissingKey, "CLASS"),
        (without_seal(FILE_DOMAIN, VGUUID="x", PV0="pv:x"), BadValue, "pv:x"),
        (without_seal(FILE_DOMAIN, PV0="pv:x"), BadValue, "VGUUID"),
    ],
)
def test_damaged_domain_is_refused(data: bytes, error: type[Damaged], says: str) -> None:
    with pytest.raises(error) as refused:
        decode_domain(data, "the sample")
    assert says in str(refused.value)


def test_domain_without_a_checksum_is_accepted_as_the_original_does() -> None:
    text = FILE_DOMAIN.partition("_SHA")[0]
    assert decode_domain(text.encode(), "sample").domain_id == DOMAIN


def test_old_words_of_a_pool_are_understood() -> None:
    data = without_seal(FILE_DOMAIN, POOL_DOMAINS=f"{DOMAIN}:'inactive'", ROLE="MASTER", LEASETIMESEC="soon")
    found = decode_domain(data, "sample")
    assert found.pool is not None
    assert found.pool.domains == {DOMAIN: AttachedStatus.ATTACHED}
    assert found.role is DomainRole.MASTER
    assert found.leases.lease_time_s == 60


def test_unknown_and_half_known_keys_are_kept() -> None:
    data = without_seal(V3_DOMAIN, LOGBLKSIZE="512", X=" y=z ", MASTER_VERSION="0")
    found = decode_domain(data, "sample")
    assert found.pool is None
    assert found.others == {"LOGBLKSIZE": "512", "X": " y=z ", "MASTER_VERSION": "0"}
    assert encode_domain(found) == data


@pytest.mark.parametrize("text", ["a\nb", "a\u2028b", "a\x0bb", "a\0", "a\x85b", "x" * 51])
def test_description_that_would_break_the_file_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        encode_domain(DomainMetadata(DOMAIN, StorageType.NFS, description=text))


@given(LINE, LINE)
def test_any_line_of_text_comes_back(description: str, other: str) -> None:
    metadata = DomainMetadata(DOMAIN, StorageType.NFS, description=description[:50], others={"OTHER": other})
    assert decode_domain(encode_domain(metadata), "sample") == metadata


# Block domains


def test_block_domain_is_read_from_its_tags_and_written_back() -> None:
    found = block.parse_domain_tags(BLOCK_DOMAIN_TAGS, "sample")
    assert found.description == "sample block ünïcode"
    assert found.group is not None
    assert found.group.disks[1] == PhysicalVolume(
        "3600140500000000000000000000000b", "JgVMtN-WPGa-3mIv-ogiM-ftQT-A0dG-14USQl", 237, 237
    )
    assert block.domain_tags(found) == BLOCK_DOMAIN_TAGS - {block.DOMAIN_TAG}


def test_change_of_tags_carries_only_what_changed_and_the_checksum() -> None:
    old = block.parse_domain_tags(BLOCK_DOMAIN_TAGS, "sample")
    away, added = block.tag_changes(BLOCK_DOMAIN_TAGS, block.domain_tags(replace(old, role=DomainRole.REGULAR)))
    assert "MDT_ROLE=Master" in away
    assert "MDT_ROLE=Regular" in added
    assert {tag[:14] for tag in away | added} == {"MDT_ROLE=Maste", "MDT_ROLE=Regul", "MDT__SHA_CKSUM"}
    assert block.DOMAIN_TAG not in away


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_tags_hold_any_text(text: str) -> None:
    tag = block.encode_tag(text)
    assert block.decode_tag(tag) == text
    assert tag.isascii()
    assert " " not in tag
    assert "," not in tag


def test_volume_tags() -> None:
    volume, image = VolumeId(new_id()), ImageId(new_id())
    assert block.parse_volume_tags({f"IU_{image}", "MD_3", f"PU_{volume}"}, "lv") == block.VolumeTags(image, volume, 3)
    blank = f"PU_{block.BLANK}"
    assert block.parse_volume_tags({f"IU__remove_me_{image}", "MD_3", blank}, "lv") == block.VolumeTags(
        image, None, 3, removed=True
    )
    zeroed = block.VolumeTags(image, None, 3, removed=True, zeroed=True)
    assert zeroed.tags() == {f"IU__remove_me_ZERO_{image}", "MD_3", blank}
    assert block.parse_volume_tags(zeroed.tags(), "lv") == zeroed
    assert block.parse_volume_tags({"OVIRT_VOL_INITIALIZING"}, "lv") is None
    for broken in (set(), {"MD_1"}, {"IU_x", "MD_1", blank}, {f"IU_{image}", "MD_1", "MD_2", blank}):
        with pytest.raises(Damaged):
            block.parse_volume_tags(broken, "lv")


def test_slots() -> None:
    assert block.slot_offset(1, 5) == 0x102000
    assert block.slot_offset(7, 5) == 0x10E000
    assert block.slot_offset(4, 4) == 2048
    assert block.free_slot({1, 2, 4}, 5) == 3
    assert block.free_slot(set(), 3) == 4
    assert leases.volume_lease_offset(4, Geometry()) == 109051904
    assert leases.volume_lease_offset(block.LAST_SLOT, Geometry()) == 2047 * MIB
    for slot, version in ((0, 5), (3, 4), (1948, 5)):
        with pytest.raises(InvalidParameter):
            block.slot_offset(slot, version)
    with pytest.raises(InvalidParameter):
        leases.volume_lease_offset(1948, Geometry())
    with pytest.raises(NoSpace):
        block.free_slot(range(2000), 5)


def test_special_volumes_fill_the_extents_that_the_original_fills() -> None:
    extents, first = {}, 0
    for volume in block.special_volumes(5, Geometry()):
        extents[volume.name] = first
        first += block.round_to_extent(volume.size) // block.EXTENT
    assert extents == {"metadata": 0, "ids": 1, "inbox": 2, "outbox": 3, "leases": 4, "xleases": 20, "master": 28}
    assert "xleases" not in {volume.name for volume in block.special_volumes(3, Geometry())}


def test_sizes_of_logical_volumes() -> None:
    gib = 1 << 30
    assert block.round_to_extent(100 * MIB) == 134217728
    assert block.thin_size(100 * gib, None) == 2684354560
    assert block.thin_size(256 * MIB, None) == 256 * MIB
    assert block.thin_size(gib, 200 * MIB) == 256 * MIB
    assert block.max_size(gib) == 1152 * MIB
    assert block.optimal_size(gib, 100 * gib, leaf=True) == gib + 2560 * MIB
    assert block.optimal_size(gib, 100 * gib, leaf=False) == gib
    assert block.optimal_size(gib, gib, leaf=True) == 1152 * MIB
    with pytest.raises(InvalidParameter):
        block.thin_size(gib, 2 * gib)


# A volume's metadata


def test_volume_that_the_original_wrote_is_written_back_byte_for_byte() -> None:
    assert encode_volume(decode_volume(V5_VOLUME.encode(), "sample"), 5) == V5_VOLUME.encode()
    assert encode_volume(decode_volume(V3_VOLUME.encode(), "sample"), 3) == V3_VOLUME.encode()
    assert encode_volume(decode_volume(V3_VOLUME.encode(), "sample"), 4) == V3_VOLUME.encode()


def test_volume_is_read() -> None:
    found = decode_volume(V5_VOLUME.encode(), "sample")
    assert found == VolumeMetadata(
        domain_id=DOMAIN,
        image_id=IMAGE,
        capacity=67108864,
        created_s=1795341752,
        format=VolumeFormat.COW,
        allocation=Allocation.SPARSE,
        kind=VolumeKind.INTERNAL,
        parent=VolumeId("b0000001-1001-4000-8000-0000000010ca"),
        description='{"DiskAlias":"chain","DiskDescription":""}',
        sequence=2,
    )
    old = decode_volume(V3_VOLUME.encode(), "sample")
    assert (old.capacity, old.sequence, old.parent) == (1 << 30, 0, None)


def test_slot_is_padded() -> None:
    slot = encode_slot(decode_volume(V5_VOLUME.encode(), "sample"), 5)
    assert slot == V5_VOLUME.encode() + bytes(512 - len(V5_VOLUME))
    assert decode_volume(slot, "slot") == decode_volume(V5_VOLUME.encode(), "sample")


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", Damaged, "nothing"),
        (bytes(512), Damaged, "nothing"),
        (b"EOF\n", MissingKey, "PUUID"),
        (b"NONE=" + b"#" * 500 + b"\nEOF\n", Damaged, "wiped"),
        (V5_VOLUME.encode()[:200], Damaged, "end is missing"),
        (V5_VOLUME.replace("EOF\n", "").encode(), Damaged, "end is missing"),
        (V5_VOLUME.replace("VOLTYPE=INTERNAL\n", "").encode(), MissingKey, "VOLTYPE"),
        (V5_VOLUME.replace("CAP=", "CAPS=").encode(), MissingKey, "SIZE"),
        (V5_VOLUME.replace("CAP=", "CAP=-").encode(), BadValue, "CAP"),
        (V5_VOLUME.replace("CAP=6", "CAP=" + "9" * 5000).encode(), BadValue, "CAP"),
        (V5_VOLUME.replace("CTIME=1", "CTIME=²").encode(), BadValue, "CTIME"),
        (V5_VOLUME.replace("=COW", "=cow").encode(), BadValue, "FORMAT"),
        (V5_VOLUME.replace("=LEGAL", "=").encode(), BadValue, "LEGALITY"),
        (V5_VOLUME.replace("PUUID=b", "PUUID=../b").encode(), BadValue, "PUUID"),
        (V5_VOLUME.encode().replace(b"IMAGE=b", b"IMAGE=\xff"), MissingKey, "IMAGE"),
    ],
)
def test_damaged_volume_is_refused(data: bytes, error: type[Damaged], says: str) -> None:
    with pytest.raises(error) as refused:
        decode_volume(data, "the sample")
    assert says in str(refused.value)


def test_reader_passes_over_what_the_original_passes_over() -> None:
    text = V5_VOLUME.replace("GEN=0\n", "").replace("SEQ=2\n", "UNKNOWN=x\nno pair\n").replace("=COW", " = COW ")
    found = decode_volume(text.encode() + b"FORMAT=RAW\n" + bytes(50), "sample")
    assert (found.format, found.generation, found.sequence) == (VolumeFormat.COW, 0, 0)


@given(st.text())
def test_any_description_is_written_whole_or_refused(text: str) -> None:
    metadata = replace(decode_volume(V5_VOLUME.encode(), "sample"), description=text)
    try:
        data = encode_volume(metadata, 5)
    except (InvalidParameter, MetadataOverflow):
        return
    assert len(data) <= 512
    assert data.endswith(b"EOF\n")
    assert decode_volume(data, "sample") == metadata


@given(st.binary(max_size=600))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with pytest.raises(Damaged):
        decode_volume(data, "noise")


def test_description_of_many_bytes_overflows_with_its_own_error() -> None:
    description = tidy_description("ü" * 300)
    assert len(description) == 210
    with pytest.raises(MetadataOverflow) as refused:
        encode_volume(replace(decode_volume(V5_VOLUME.encode(), "sample"), description=description), 5)
    assert refused.value.code == 756


@pytest.mark.parametrize(
    "changes",
    [{"generation": 1000}, {"sequence": 1 << 32}, {"capacity": -1}, {"description": " x"}, {"disk_type": "A\nEOF"}],
)
def test_value_that_no_reader_takes_is_not_written(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        encode_volume(replace(decode_volume(V5_VOLUME.encode(), "sample"), **changes), 5)  # type: ignore[arg-type]


# Names


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("server:/a_b/c/", "server:_a__b_c"),
        ("[fe80::1]:/x", "[fe80::1]:_x"),
        ("/data/images", "_data_images"),
        ("//data/./x/../images/", "_data_images"),
        ("nfs.example.com:/exports/data_1/x", "nfs.example.com:_exports_data__1_x"),
        ("server://a//b/", "server:_a_b"),
        ("server:2049:/a//b", "server:2049:_a_b"),
        ("server:02049:/a//b", "server:02049:_a_b"),
        ("server:99999:/a/../b", "server:99999:_b"),
        ("server:/", "server:_"),
        ("server:/a b:c", "server:_a b:c"),
        ("gluster:vol", "gluster:vol"),
        ("relative/path", "relative_path"),
    ],
)
def test_mount_point_names(spec: str, name: str) -> None:
    assert mounts.directory_name(spec) == name


@pytest.mark.parametrize("spec", ["", ".", "..", "a/..", "[fe80::1/x", "server:/" + "x" * 250, "server:/a\0b"])
def test_what_cannot_be_a_mount_point_is_refused(spec: str) -> None:
    with pytest.raises(InvalidParameter):
        mounts.directory_name(spec)


@given(st.text(alphabet="ab_/.:[]1 ", max_size=30))
def test_mount_point_is_one_name_and_normalizing_twice_changes_nothing(spec: str) -> None:
    try:
        name = mounts.directory_name(spec)
    except InvalidParameter:
        return
    assert "/" not in name
    assert name not in {"", ".", ".."}
    assert mounts.directory_name(mounts.normalize(spec)) == name


def test_special_files() -> None:
    def sizes(kind: StorageType, version: int, shape: Geometry) -> dict[str, tuple[int, int]]:
        return {item.name: (item.fresh_size, item.size) for item in tree.special_files(kind, version, shape)}

    box = 16777216
    assert sizes(StorageType.LOCALFS, 5, Geometry()) == {
        "ids": (0, 0),
        "leases": (0, 0),
        "inbox": (box, box),
        "outbox": (box, box),
    }
    assert sizes(StorageType.NFS, 5, Geometry()) == {
        "ids": (0, 1048576),
        "leases": (0, 2097152),
        "xleases": (1302528, 1302528),
        "inbox": (box, box),
        "outbox": (box, box),
    }
    assert "xleases" not in sizes(StorageType.POSIXFS, 3, Geometry())
    assert sizes(StorageType.NFS, 5, Geometry(4096, 8 * MIB))["leases"] == (0, 16 * MIB)


def test_names_in_an_image() -> None:
    ident = str(uuid.UUID(int=5))
    assert tree.volume_of_meta(f"{ident}.meta") == ident
    for name in (ident, f"{ident}.lease", f"{ident}.meta.new", "x.meta", f"{ident.upper()}a.meta", ".meta"):
        assert tree.volume_of_meta(name) is None
    assert tree.removed_name(ImageId(ident)) == f"_remove_me_{ident}"


# Leases


def test_areas_follow_the_table() -> None:
    assert leases.geometry(512, 2000) == Geometry(512, MIB)
    for hosts, area in ((1, 1), (250, 1), (251, 2), (500, 2), (501, 4), (1001, 8), (2000, 8)):
        assert leases.geometry(4096, hosts) == Geometry(4096, area * MIB)
    assert Geometry(4096, 4 * MIB).max_hosts == 1000
    for block_size, hosts in ((512, 0), (512, 2001), (1024, 1), (0, 1)):
        with pytest.raises(InvalidParameter):
            leases.geometry(block_size, hosts)
    with pytest.raises(InvalidParameter):
        Geometry(512, 2 * MIB)


def test_places_of_leases() -> None:
    assert leases.sdm_lease(DOMAIN, "/x/leases", Geometry()).offset == 1048576
    assert leases.sdm_lease(DOMAIN, "/x/leases", Geometry(4096, 8 * MIB)).offset == 8 * MIB
    assert leases.host_sector_offset(250, Geometry()) == 0x1F200
    assert leases.value_offset(Geometry()) == 0xFA400
    with pytest.raises(InvalidParameter):
        leases.host_sector_offset(251, Geometry(4096, MIB))


def test_value_of_a_lease_is_what_the_original_writes() -> None:
    value = leases.JobValue(
        0,
        "70b00001-2002-4000-8000-0000000020f5",
        leases.JobStatus.PENDING,
        1795341818,
        1795341818,
        "11112222-3333-4444-5555-666677778888",
    )
    data = leases.encode_value(value)
    assert data.rstrip(b"\0") == (
        b'{"type": "JOB", "generation": 0, "job_id": "70b00001-2002-4000-8000-0000000020f5", "job_status": "PENDING", '
        b'"created": 1795341818, "modified": 1795341818, "host_hardware_id": "11112222-3333-4444-5555-666677778888"}'
    )
    assert len(data) == 512
    assert leases.decode_value(data, "lease") == value
    assert leases.decode_value(leases.encode_value(None), "lease") is None
    for damaged in (b"x", b"[]", b'{"type": "JOB"}', data.replace(b"PENDING", b"DOING"), data.replace(b"JOB", b"BOJ")):
        with pytest.raises(Damaged):
            leases.decode_value(damaged, "lease")
    with pytest.raises(InvalidParameter):
        leases.encode_value(replace(value, job_id="x" * 500))


def test_generations_begin_again() -> None:
    assert [leases.next_generation(number) for number in (0, 998, 999)] == [1, 999, 0]


# Ids and words


def test_ids() -> None:
    ident = new_id()
    assert is_uuid(ident)
    assert parse_volume_id(ident) == ident
    assert parse_parent_id(block.BLANK) is None
    for wrong in (ident.upper().replace("0", "A"), "", f"{ident}\n", block.BLANK, f"../{ident[3:]}"):
        with pytest.raises(InvalidParameter) as refused:
            parse_volume_id(wrong, "leafVolID")
        assert refused.value.facts()["field"] == "leafVolID"


def test_words_of_the_api() -> None:
    assert Allocation.of_word("SPARSE", "preallocate") is Allocation.SPARSE
    assert DomainClass.of_word("Iso", "domainClass") is DomainClass.ISO
    with pytest.raises(InvalidParameter) as refused:
        VolumeFormat.of_word("cow", "volFormat")
    assert refused.value.facts()["field"] == "volFormat"
