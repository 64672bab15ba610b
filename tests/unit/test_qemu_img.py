"""qemu-img's command lines, and qcow2 headers judged: what is refused, and that nothing else comes of bad bytes."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.base.errors import BadParameter
from vdsm.storage.ids import VolumeId
from vdsm.storage.images.inspection import Expected, judge
from vdsm.storage.kinds import VolumeFormat
from vdsm.system.qemu_img import Header, parse_header
from vdsm.system.qemu_img.work import Copy

PARENT = VolumeId("5b0f8a3e-0000-4000-8000-000000000001")
SOUND = Header(
    virtual_size=1 << 30,
    backing=None,
    backing_format=None,
    data_file=None,
    l1_entries=2,
    l1_offset=0x30000,
    refcount_offset=0x10000,
    refcount_clusters=1,
)
ON_PARENT = replace(SOUND, backing=PARENT, backing_format="qcow2")
ALONE = Expected(capacity=1 << 30, length=0x40000)
CHILD = replace(ALONE, parent=PARENT, parent_format=VolumeFormat.COW)


def qcow2() -> bytearray:
    """What ``qemu-img create -f qcow2 x 1G`` writes, as far as it counts."""
    data = bytearray(65536)
    struct.pack_into(">4sIQIIQIIQQIIQ", data, 0, b"QFI\xfb", 3, 0, 0, 16, 1 << 30, 0, 2, 0x30000, 0x10000, 1, 0, 0)
    struct.pack_into(">QQQII", data, 72, 0, 0, 0, 4, 112)
    return data


def test_header_has_what_is_judged() -> None:
    assert parse_header(bytes(qcow2())) == SOUND
    assert judge(SOUND, ALONE) == ()
    assert judge(ON_PARENT, CHILD) == ()
    assert judge(replace(ON_PARENT, backing_format=None), CHILD) == ()


REFUSED = [
    (replace(SOUND, backing="/etc/passwd"), ALONE, "backing file"),
    (replace(SOUND, backing="nbd:localhost:1"), ALONE, "backing file"),
    (SOUND, CHILD, "backing file"),
    (replace(ON_PARENT, backing=f"../x/{PARENT}"), CHILD, "backing file"),
    (replace(ON_PARENT, backing=f"json:{PARENT}"), CHILD, "backing file"),
    (replace(ON_PARENT, backing_format="raw"), CHILD, "format"),
    (replace(ON_PARENT, backing_format=None), replace(CHILD, parent_format=VolumeFormat.RAW), "is raw"),
    (replace(SOUND, data_file=""), ALONE, "data file"),
    (replace(SOUND, data_file="/etc/passwd"), ALONE, "data file"),
    (replace(SOUND, incompatible=1 << 1), ALONE, "corrupt"),
    (replace(SOUND, incompatible=1 << 5), ALONE, "features"),
    (replace(SOUND, incompatible=1 << 63), ALONE, "features"),
    (replace(SOUND, encryption=2), ALONE, "encrypted"),
    (replace(SOUND, snapshots=1), ALONE, "snapshots"),
    (replace(SOUND, bitmaps=70000), ALONE, "bitmaps"),
    (replace(SOUND, bitmaps=1, bitmap_directory_bytes=1 << 40), ALONE, "bitmaps"),
    (replace(SOUND, virtual_size=(1 << 30) + 1), ALONE, "virtual size"),
    (replace(SOUND, virtual_size=1 << 63), Expected(), "virtual size"),
    (replace(SOUND, l1_entries=1), ALONE, "needs 2"),
    (replace(SOUND, l1_entries=(4 << 20) + 1), Expected(), "may take"),
    (replace(SOUND, l1_offset=0x30001), ALONE, "out of place"),
    (replace(SOUND, l1_offset=0), ALONE, "out of place"),
    (replace(SOUND, l1_offset=0x40000), ALONE, "cut off"),
    (replace(SOUND, refcount_clusters=129), Expected(), "may take"),
    (replace(SOUND, refcount_clusters=0), ALONE, "no reference counts"),
    (replace(SOUND, refcount_offset=1 << 62), ALONE, "cut off"),
]


@pytest.mark.parametrize(("header", "expected", "word"), REFUSED)
def test_refused_for_what_it_is(header: Header, expected: Expected, word: str) -> None:
    assert any(word in reason for reason in judge(header, expected))


@given(st.binary(min_size=1, max_size=40), st.integers(0, 140))
def test_changed_bytes_are_accepted_or_refused_and_nothing_else(junk: bytes, at: int) -> None:
    data = qcow2()
    data[at : at + len(junk)] = junk
    try:
        header = parse_header(bytes(data))
    except BadParameter:
        return
    if judge(header, ALONE):
        return
    # What is accepted names nothing, and costs QEMU little.
    assert (header.backing, header.data_file, header.encryption, header.snapshots) == (None, None, 0, 0)
    assert header.virtual_size <= 1 << 30
    assert header.l1_entries * 8 <= 32 << 20
    assert header.refcount_clusters << header.cluster_bits <= 8 << 20


def test_copies_are_asked_for_as_the_format_says() -> None:
    flat = Copy("/a", "qcow2", "/b", "raw")
    assert " ".join(flat.argv()) == ("qemu-img convert -p -t none -T none -n --target-is-zero -f qcow2 -O raw /a /b")
    layer = Copy("/a", "qcow2", "/b", "qcow2", backing=(PARENT, "raw"), bitmaps=True, target_cache="writeback")
    assert " ".join(layer.argv()) == (
        f"qemu-img convert -p -t writeback -T none -n -B {PARENT} -F raw --bitmaps -f qcow2 -O qcow2 /a /b"
    )
    used = Copy("/a", "raw", "/dev/b", "raw", blank=False, unordered=True)
    assert " ".join(used.argv()) == "qemu-img convert -p -t none -T none -n -W -f raw -O raw /a /dev/b"
