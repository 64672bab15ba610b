"""The index of external leases and the mailbox, against bytes that the original wrote."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdsm.storage.errors import Damaged, InvalidParameter, LeaseExists, NoSpace, NoSuchLease
from vdsm.storage.formats import mailbox, xleases
from vdsm.storage.formats.leases import MIB, Geometry
from vdsm.storage.formats.xleases import INDEX_SIZE, Index, Record, format_index
from vdsm.storage.ids import DomainId, LeaseId, VolumeId

DOMAIN = DomainId("5da00001-2002-4000-8000-0000000020f5")
VOLUME = VolumeId("b0000003-2002-4000-8000-0000000020f5")
FIRST, SECOND = (LeaseId(f"1ea5e00{number}-2002-4000-8000-0000000020f5") for number in (1, 2))

HEADER = bytes.fromhex(
    "1215201600303030310035646130303030312d323030322d343030302d383030302d303030303030303032306635"
    "00000000000000000000000000313739353334313737320 02d".replace(" ", "")
).ljust(511, b"\0")
RECORDS = bytes.fromhex(
    "31656135653030312d323030322d343030302d383030302d30303030303030303230663500000000000000000000000000"
    "303030303331343537323800 2d2d0a"
    "31656135653030322d323030322d343030302d383030302d30303030303030303230663500000000000000000000000000"
    "303030303431393433303400 2d2d0a"
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 00"
    "303030303030303030303000 2d2d0a".replace(" ", "")
)
SMALL = Geometry()
LARGE = Geometry(4096, 2 * MIB)


def index(*records: Record, shape: Geometry = SMALL) -> Index:
    found = Index(format_index(DOMAIN, 1795341772), shape, "the index")
    for record in records:
        found.add(record.lease_id, updating=record.updating)
    return found


# External leases


def test_fresh_index_is_the_original_s() -> None:
    data = format_index(DOMAIN, 1795341772)
    assert len(data) == INDEX_SIZE == 253952
    assert data[:512] == HEADER + b"\n"
    assert xleases.CAPACITY == 3960
    assert data[512:576] == RECORDS[128:]
    assert data[512:] == RECORDS[128:] * 3960
    updating = format_index(DOMAIN, 1795341772, updating=True)
    assert updating[70:71] == b"u"
    assert updating[71:] == data[71:]


def test_added_leases_are_written_as_the_original_writes_them() -> None:
    found = index()
    record, first = found.add(FIRST)
    assert record == Record(0, FIRST)
    assert (first.offset, len(first.data)) == (MIB + 512, 512)
    assert first.data[:64] == RECORDS[:64]
    _, second = found.add(SECOND)
    assert second.data[:192] == RECORDS
    assert [item.lease_id for item in found.records()] == [FIRST, SECOND]
    assert xleases.lease_record(DOMAIN, found.find(SECOND), "/x", SMALL).offset == 4194304


def test_sectors_of_4096_are_written_whole_with_the_header_in_the_first() -> None:
    found = index(shape=LARGE)
    _, block = found.add(FIRST)
    assert block.offset == 2 * MIB
    assert len(block.data) == 4096
    assert block.data[:512] == HEADER + b"\n"
    assert xleases.lease_offset(0, LARGE) == 6 * MIB
    assert block.data[512 + 49 : 512 + 60] == b"%011d" % (6 * MIB)


def test_removed_record_is_free_and_taken_next() -> None:
    found = index(Record(0, FIRST), Record(1, SECOND))
    record, block = found.remove(FIRST)
    assert record.number == 0
    assert block.data[:128] == RECORDS[128:] + RECORDS[64:128]
    with pytest.raises(NoSuchLease):
        found.find(FIRST)
    with pytest.raises(NoSuchLease):
        found.remove(FIRST)
    assert found.add(LeaseId(str(uuid.UUID(int=7))))[0].number == 0


def test_record_that_is_being_updated_does_not_exist_but_keeps_its_place() -> None:
    found = index(Record(0, FIRST, updating=True))
    with pytest.raises(NoSuchLease):
        found.find(FIRST)
    assert list(found.records()) == [Record(0, FIRST, updating=True)]
    with pytest.raises(LeaseExists):
        found.add(FIRST)
    found.remove(FIRST)
    assert list(found.records()) == []


def test_full_index_and_wrong_ids_are_refused() -> None:
    found = index()
    for number in range(xleases.CAPACITY):
        found.add(LeaseId(str(uuid.UUID(int=number + 1))))
    with pytest.raises(NoSpace):
        found.add(FIRST)
    for wrong in ("", "x", FIRST.upper(), FIRST[:-1], "SDM"):
        with pytest.raises(InvalidParameter):
            found.find(LeaseId(wrong))


@pytest.mark.parametrize(
    ("place", "data", "says"),
    [
        (0, b"\0", "no index"),
        (511, b"x", "no index"),
        (5, b"0002", "version"),
        (70, b"u", "rebuil"),
        (59, b"x", "header"),
        (10, b"\xff", "header"),
    ],
)
def test_damaged_index_is_refused(place: int, data: bytes, says: str) -> None:
    whole = bytearray(format_index(DOMAIN, 1))
    whole[place : place + len(data)] = data
    with pytest.raises(Damaged) as refused:
        Index(bytes(whole), SMALL, "the index")
    assert says in str(refused.value)


def test_index_that_is_cut_off_and_a_damaged_record_are_refused() -> None:
    with pytest.raises(Damaged):
        Index(format_index(DOMAIN, 1)[:-512], SMALL, "the index")
    whole = bytearray(format_index(DOMAIN, 1))
    whole[512 + 64 : 512 + 64 + 5] = b"abcde"
    whole[512 + 127] = 0
    with pytest.raises(Damaged) as refused:
        list(Index(bytes(whole), SMALL, "the index").records())
    assert "record 1" in str(refused.value)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=60))
def test_index_is_a_set_of_leases_and_its_blocks_make_the_same_file(steps: list[tuple[bool, int]]) -> None:
    found = index()
    data = bytearray(format_index(DOMAIN, 1795341772))
    model: set[LeaseId] = set()
    for add, number in steps:
        lease = LeaseId(str(uuid.UUID(int=number)))
        if add == (lease in model):
            with pytest.raises((LeaseExists, NoSuchLease)):
                found.add(lease) if add else found.remove(lease)
            continue
        _, block = found.add(lease) if add else found.remove(lease)
        start = block.offset - MIB
        data[start : start + len(block.data)] = block.data
        model ^= {lease}
    assert {item.lease_id for item in Index(bytes(data), SMALL, "the file").records()} == model


def test_length_of_the_file() -> None:
    assert xleases.volume_size(0, SMALL) == 1302528
    assert xleases.volume_size(2, SMALL) == 5242880


# The mailbox

MESSAGE = bytes.fromhex("3178746e64f520000000000080004002200100a05df52000000000008000400220030000b0") + (
    b"0000000000001400" + b"0" * 11
)


def test_message_is_the_original_s() -> None:
    message = mailbox.request(DOMAIN, VOLUME, 5120 * MIB)
    assert mailbox.encode_message(message) == MESSAGE
    assert mailbox.decode_message(MESSAGE) == message
    assert mailbox.request(DOMAIN, VOLUME, 5120 * MIB + 1).size_mib == 5121


def test_box_has_its_place_and_its_checksum() -> None:
    assert mailbox.box_offset(1) == 0x1000
    box = mailbox.seal_box(MESSAGE)
    assert len(box) == 4096
    assert box[4092:] == bytes.fromhex("a30c0000")
    assert mailbox.box_is_whole(box)
    assert mailbox.seal_box(mailbox.SEEN)[4092:] == bytes.fromhex("40000000")
    assert not mailbox.box_is_whole(box[:100] + b"x" + box[101:])
    assert not mailbox.box_is_whole(box[:4095])
    for host in (0, 250, 2000):
        with pytest.raises(InvalidParameter):
            mailbox.box_offset(host)
    with pytest.raises(InvalidParameter):
        mailbox.seal_box(MESSAGE * 64)


def test_slots_without_a_message_and_foreign_ones() -> None:
    assert mailbox.decode_message(mailbox.EMPTY) is None
    assert mailbox.decode_message(mailbox.SEEN) is None
    for damaged in (MESSAGE[:60], b"2" + MESSAGE[1:], MESSAGE.replace(b"xtnd", b"yyyy"), MESSAGE.replace(b"14", b"zz")):
        with pytest.raises(Damaged):
            mailbox.decode_message(damaged)
    with pytest.raises(InvalidParameter):
        mailbox.encode_message(mailbox.Extend(DOMAIN, VOLUME, 1 << 32))


def test_answer_repeats_the_request_and_size_0_is_a_failure() -> None:
    failed = mailbox.encode_message(mailbox.Extend(DOMAIN, VOLUME, mailbox.FAILED))
    assert mailbox.answers(failed, MESSAGE)
    assert not mailbox.answers(mailbox.SEEN, MESSAGE)


def test_event_is_the_original_s() -> None:
    block = mailbox.encode_event(uuid.UUID("01737bdf-37dd-46a0-991d-902e46d314f6"))
    assert block[:20] == bytes.fromhex("0065767401737bdf37dd46a0991d902e46d314f6")
    assert (len(block), set(block[20:])) == (4096, {0})
    assert mailbox.decode_event(block) == uuid.UUID("01737bdf-37dd-46a0-991d-902e46d314f6")
    assert mailbox.decode_event(bytes(4096)) is None
    assert mailbox.READ_SIZE == 1024000


@given(st.uuids(), st.uuids(), st.integers(0, 0xFFFFFFFF))
def test_every_message_comes_back(domain: uuid.UUID, volume: uuid.UUID, size: int) -> None:
    message = mailbox.Extend(DomainId(str(domain)), VolumeId(str(volume)), size)
    assert mailbox.decode_message(mailbox.encode_message(message)) == message
