"""The journal of this host: one file per operation, whose records take turns in two slots.

    DIRECTORY/ID.op         slot 0 | slot 1, of the same size, a multiple of 4096 bytes
    slot                    magic, length, number, checksum | the record as JSON
    DIRECTORY/ID.op.new     what a crash left of making one: removed when the journal is read

A record overwrites the older of the two, in place: the other stays whole until the new one is on the disk, and a torn
one fails its checksum. That is one small write to blocks that the file has already, so the file system's own journal
has nothing to do: a fortieth of the time of replacing a file. On a storage domain, where other hosts read,
``FileJournal`` replaces files.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from vdsm.base import persist
from vdsm.operations.journal import Damaged, ordered, parse
from vdsm.operations.records import Record

_SUFFIX: Final = ".op"
_NEW: Final = ".new"
_HEADER: Final = struct.Struct(">4sIQI")
_MAGIC: Final = b"vop1"
_UNIT: Final = 4096


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the last record of an operation is: ``number`` says which slot, the next goes to the other."""

    slot_bytes: int
    number: int


class HostJournal:
    """``JournalStore`` in a directory of this host, which it makes."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory: Final = Path(directory)
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}

    def load(self) -> tuple[list[Record], list[Damaged]]:
        """See ``JournalStore.load``."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        records: list[Record] = []
        damaged: list[Damaged] = []
        for path in sorted(self._directory.iterdir()):
            if path.name.endswith(_SUFFIX + _NEW):
                path.unlink()
            elif path.name.endswith(_SUFFIX):
                found = self._read(path)
                if isinstance(found, Damaged):
                    damaged.append(found)
                else:
                    records.append(found)
        return ordered(records), damaged

    def write(self, record: Record) -> None:
        """See ``JournalStore.write``."""
        data = msgspec.json.encode(record)
        with self._lock:
            # Taken out: if writing fails, the slot may be torn, and the next record must not go to the good one.
            place = self._places.pop(record.id, None)
        number = place.number + 1 if place else 1
        content = _packed(number, data)
        if place is None or len(content) > place.slot_bytes:
            # With room to grow: notes come later.
            slot_bytes = -(-2 * len(content) // _UNIT) * _UNIT
            self._make(self._path(record.id), content, slot_bytes, number % 2)
        else:
            slot_bytes = place.slot_bytes
            self.overwrite(self._path(record.id), content, slot_bytes * (number % 2))
        with self._lock:
            self._places[record.id] = _Place(slot_bytes, number)

    def remove(self, operation_id: str) -> None:
        """See ``JournalStore.remove``."""
        self._path(operation_id).unlink(missing_ok=True)
        persist.sync_directory(self._directory)
        with self._lock:
            self._places.pop(operation_id, None)

    def overwrite(self, path: Path, content: bytes, offset: int) -> None:
        """Put a record into its slot, durably. For tests to tear."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            done = 0
            while done < len(content):
                done += os.pwrite(descriptor, content[done:], offset + done)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _make(self, path: Path, content: bytes, slot_bytes: int, slot: int) -> None:
        # Zeros are written, not skipped: a later write must find its blocks.
        slots = [bytes(slot_bytes), bytes(slot_bytes)]
        slots[slot] = content.ljust(slot_bytes, b"\0")
        fresh = path.with_name(path.name + _NEW)
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(slots))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        persist.sync_directory(self._directory)

    def _read(self, path: Path) -> Record | Damaged:
        name = path.name.removesuffix(_SUFFIX)
        content = path.read_bytes()
        half = len(content) // 2
        number, data = max(_unpacked(content[:half], content[half:]), default=(0, None))
        if data is None:
            return Damaged(name, "neither of its two records is whole")
        with self._lock:
            self._places[name] = _Place(half, number)
        return parse(name, data)

    def _path(self, operation_id: str) -> Path:
        return self._directory / f"{operation_id}{_SUFFIX}"


def _packed(number: int, data: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, len(data), number, _checksum(number, data)) + data


def _unpacked(*slots: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and records of those slots that are whole."""
    for slot in slots:
        if len(slot) >= _HEADER.size:
            magic, length, number, checksum = _HEADER.unpack_from(slot)
            data = slot[_HEADER.size : _HEADER.size + length]
            if (magic, len(data), checksum) == (_MAGIC, length, _checksum(number, data)):
                yield number, data


def _checksum(number: int, data: bytes) -> int:
    return zlib.crc32(data, number & 0xFFFFFFFF)
