"""The index of external leases, in ``dom_md/xleases``.

    0                 alignment                 3 x alignment
    +-- (unused) -----+-- index -- (reserved) --+-- record 0's lease --+-- record 1's lease --+-- ...

The index is 62 blocks of 4096 bytes: a header of 512 bytes, then 3960 records of 64.

    header  0 magic 0x12152016, big endian   4 NUL   5 "0001"   9 NUL   10 lockspace (48)   58 NUL
            59 time, 10 digits   69 NUL   70 updating "-" or "u"   71 NULs   511 line end
    record  0 lease id (48, NULs: free)   48 NUL   49 offset, 11 digits (informative)   60 NUL
            61 updating "-" or "u"   62 "-"   63 line end

A header with "u" makes the whole index unusable until it is rebuilt; a record with "u" does not exist. A lease is made
by writing sanlock's resource first and the record second, and removed the other way round; each step writes the one
block (of the domain's sector size) that the record is in. The header's time is that of the formatting.

Source: storage format, section 3.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from vdsm.storage.errors import Damaged, InvalidParameter, LeaseExists, NoSpace, NoSuchLease
from vdsm.storage.formats.leases import Geometry, LeaseRecord
from vdsm.storage.ids import DomainId, LeaseId, is_uuid

INDEX_SIZE: Final = 62 * 4096
HEADER_SIZE: Final = 512
RECORD_SIZE: Final = 64
CAPACITY: Final = (INDEX_SIZE - HEADER_SIZE) // RECORD_SIZE
MAGIC: Final = 0x12152016
VERSION: Final = b"0001"
FIRST_SLOT: Final = 3

_HEADER: Final = struct.Struct(">Ix4sx48sx10sxc440sc")
_RECORD: Final = struct.Struct(">48sx11sxccc")
_READY: Final = b"-"
_UPDATING: Final = b"u"
_END: Final = b"\n"


@dataclass(frozen=True, slots=True)
class Record:
    """A lease in the index; ``updating`` says that it was being made or removed, so that it does not count."""

    number: int
    lease_id: LeaseId
    updating: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that cannot be read."""

    number: int


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the volume to write: an offset in the volume, a multiple of the sector size, and a whole sector."""

    offset: int
    data: bytes


def index_offset(shape: Geometry) -> int:
    """Where the index begins in the volume."""
    return shape.alignment


def volume_size(records: int, shape: Geometry) -> int:
    """Length of a file with room for this many leases: a fresh one ends with the index."""
    if records == 0:
        return shape.alignment + INDEX_SIZE
    return (FIRST_SLOT + records) * shape.alignment


def lease_offset(number: int, shape: Geometry) -> int:
    """Where in the volume the lease of a record is."""
    return (FIRST_SLOT + number) * shape.alignment


def lease_record(lockspace: DomainId, record: Record, path: str, shape: Geometry) -> LeaseRecord:
    """What sanlock has to be told of a lease in the index."""
    return LeaseRecord(lockspace, record.lease_id, path, lease_offset(record.number, shape), shape)


def format_index(lockspace: DomainId, time_s: int, *, updating: bool = False) -> bytes:
    """A whole index without leases.

    It is written twice: all of it with ``updating``, then its first sector without.
    """
    return _header(lockspace, time_s, updating=updating) + _free_record() * CAPACITY


def survey(data: bytes) -> list[Record | Broken | None]:
    """Every record of an index that may be damaged, by number: what it says, that it says nothing readable, or free.

    The header is not looked at. ``data`` may be cut off: what is missing is broken.
    """
    whole = data.ljust(INDEX_SIZE, b"\xff")
    return [_decode_record(whole, number) for number in range(CAPACITY)]


def mended_index(
    data: bytes, shape: Geometry, lockspace: DomainId, time_s: int, found: Iterable[Record | int]
) -> bytes:
    """An index with other records: what is not named stays as it is.

    Args:
        data: the damaged index.
        shape: the domain's sector and area sizes.
        lockspace: the domain.
        time_s: whole seconds since the epoch, for a header that cannot be read.
        found: records to be written, and numbers of those that are to be free.
    """
    mended = bytearray(data[:INDEX_SIZE].ljust(INDEX_SIZE, b"\0"))
    for item in found:
        number, record = (item, _free_record()) if isinstance(item, int) else (item.number, _encode_record(item, shape))
        mended[HEADER_SIZE + number * RECORD_SIZE : HEADER_SIZE + (number + 1) * RECORD_SIZE] = record
    mended[:HEADER_SIZE] = _header(lockspace, _time_of(data) or time_s, updating=False)
    return bytes(mended)


def flagged(index: bytes, shape: Geometry) -> bytes:
    """The first sector of an index, saying that it must not be used: what is written first and last (without)."""
    magic, version, space, time, _, _, end = _HEADER.unpack_from(index)
    header = _HEADER.pack(magic, version, space, time, _UPDATING, b"", end)
    return header + index[HEADER_SIZE : shape.block_size]


class Index:
    """An index as it was read; ``add`` and ``remove`` say which sector to write, and change this copy.

    Args:
        data: the index, 253952 bytes.
        shape: the domain's sector and area sizes.
        what: names it in errors.

    Raises:
        Damaged: it is no index, or one that was being rebuilt.
    """

    def __init__(self, data: bytes, shape: Geometry, what: str) -> None:
        if len(data) != INDEX_SIZE:
            raise Damaged(what, f"it is cut off after {len(data)} bytes")
        self._data: Final = bytearray(data)
        self._shape: Final = shape
        self._what: Final = what
        magic, version, space, time, flag, _, end = _HEADER.unpack_from(self._data)
        if magic != MAGIC or end != _END:
            raise Damaged(what, "it is no index of external leases")
        if version != VERSION:
            raise Damaged(what, f"it is of the unknown version {version!r}")
        if flag != _READY:
            raise Damaged(what, "it was being formatted or rebuilt, and has to be rebuilt")
        try:
            self.lockspace: Final = DomainId(space.rstrip(b"\0").decode("ascii"))
            self.time_s: Final = int(time)
        except ValueError as error:
            raise Damaged(what, "its header cannot be read") from error

    def records(self) -> Iterator[Record]:
        """All records in use, also those that are being updated.

        Raises:
            Damaged: a record cannot be read; names its number.
        """
        for number in range(CAPACITY):
            if (record := self._read(number)) is not None:
                yield record

    def find(self, lease_id: LeaseId) -> Record:
        """The record of a lease.

        Raises:
            NoSuchLease: there is none, or it is being updated.
        """
        record = self._look_up(lease_id)
        if record is None or record.updating:
            raise NoSuchLease(lease_id)
        return record

    def add(self, lease_id: LeaseId, *, updating: bool = False) -> tuple[Record, Block]:
        """Put a lease into the first free record; to be written after its resource.

        Raises:
            LeaseExists: it is there already.
            NoSpace: all records are in use.
        """
        if self._look_up(lease_id) is not None:
            raise LeaseExists(lease_id)
        number = self.first_free()
        record = Record(number, lease_id, updating)
        return record, self._write(number, _encode_record(record, self._shape))

    def first_free(self) -> int:
        """The number of the first free record.

        Raises:
            NoSpace: all are in use.
        """
        number = self._data[HEADER_SIZE::RECORD_SIZE].find(0)
        if number >= 0:
            return number
        raise NoSpace("adding a lease", f"all {CAPACITY} records are in use")

    def remove(self, lease_id: LeaseId) -> tuple[Record, Block]:
        """Take a lease out; to be written before its resource is cleared. Also removes one that is being updated.

        Raises:
            NoSuchLease: there is none.
        """
        record = self._look_up(lease_id)
        if record is None:
            raise NoSuchLease(lease_id)
        return record, self._write(record.number, _free_record())

    def _look_up(self, lease_id: LeaseId) -> Record | None:
        position = HEADER_SIZE
        name = _name(lease_id)
        while (position := self._data.find(name, position)) >= 0:
            number, rest = divmod(position - HEADER_SIZE, RECORD_SIZE)
            if rest == 0:
                return self._read(number)
            position += 1
        return None

    def _read(self, number: int) -> Record | None:
        found = _decode_record(self._data, number)
        if isinstance(found, Broken):
            raise Damaged(self._what, f"record {number} cannot be read")
        return found

    def _write(self, number: int, record: bytes) -> Block:
        start = HEADER_SIZE + number * RECORD_SIZE
        self._data[start : start + RECORD_SIZE] = record
        sector = start - start % self._shape.block_size
        data = bytes(self._data[sector : sector + self._shape.block_size])
        return Block(index_offset(self._shape) + sector, data)


def _header(lockspace: DomainId, time_s: int, *, updating: bool) -> bytes:
    flag = _UPDATING if updating else _READY
    return _HEADER.pack(MAGIC, VERSION, _ascii(lockspace), b"%010d" % time_s, flag, b"", _END)


def _time_of(data: bytes) -> int | None:
    """When an index was formatted; None when its header cannot be read."""
    if len(data) < HEADER_SIZE:
        return None
    magic, version, _, time, _, _, end = _HEADER.unpack_from(data)
    return int(time) if (magic, version, end) == (MAGIC, VERSION, _END) and time.isdigit() else None


def _decode_record(data: bytes | bytearray, number: int) -> Record | Broken | None:
    name, offset, flag, _, end = _RECORD.unpack_from(data, HEADER_SIZE + number * RECORD_SIZE)
    text = name.rstrip(b"\0")
    if not text:
        return None
    damaged = end != _END or flag not in {_READY, _UPDATING} or not offset.isdigit()
    ident = text.decode("ascii", "replace")
    if damaged or not ident.isprintable():
        return Broken(number)
    return Record(number, LeaseId(ident), flag == _UPDATING)


def _encode_record(record: Record, shape: Geometry) -> bytes:
    flag = _UPDATING if record.updating else _READY
    offset = b"%011d" % lease_offset(record.number, shape)
    return _RECORD.pack(_name(record.lease_id)[:48], offset, flag, _READY, _END)


def _free_record() -> bytes:
    return _RECORD.pack(b"", b"%011d" % 0, _READY, _READY, _END)


def _name(lease_id: LeaseId) -> bytes:
    """The id with its padding and the NUL behind, so that no longer id is found instead."""
    if not is_uuid(lease_id):
        raise InvalidParameter("lease_id", f"must be a lower-case UUID, is {lease_id!r:.80}")
    return _ascii(lease_id).ljust(49, b"\0")


def _ascii(text: str) -> bytes:
    return text.encode("ascii")
