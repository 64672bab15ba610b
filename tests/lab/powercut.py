"""The power cut: a disk as it would be had the power gone at some write, with the unflushed writes lost.

A disk with a journal (``DiskSpec(journal=True)``) has QEMU's blklogwrites in its path: every write and flush of its
node is logged, in the format of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst):

    superblock (one sector)   magic, version, number of entries, sector size
    entry      (one sector)   sector, number of sectors, flags, length of a mark's text; then a write's data

A disk owes its user what was written before the last flush that it confirmed. What came after may be there or not, in
any combination: which, is drawn from a random generator.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .node import Disk, Node

MAGIC: Final = 0x6A736677736872
_SUPER: Final = struct.Struct("<QQQI")
_ENTRY: Final = struct.Struct("<QQQQ")
FLUSH: Final = 1
FUA: Final = 2
DISCARD: Final = 4


@dataclass(frozen=True)
class Entry:
    """A write (or discard), a flush, or both. ``data_at``: where its data is in the journal."""

    start: int  # bytes
    size: int
    flags: int
    data_at: int

    @property
    def is_write(self) -> bool:
        """Whether it changes the disk."""
        return self.size > 0


class Journal:
    """What a node did to a disk since its journal began."""

    def __init__(self, disk: Disk) -> None:
        """Read the journal. The node should be off, or have nothing under way."""
        if disk.journal is None:
            raise ValueError(f"{disk.name} has no journal: ask for it with DiskSpec(journal=True)")
        self.disk = disk
        self._journal = disk.journal
        self.entries = list(_entries(self._journal))

    def owed(self, boundary: int) -> int:
        """How many of the first ``boundary`` entries come before (or are) the last flush among them."""
        flushes = (index + 1 for index in range(boundary - 1, -1, -1) if self.entries[index].flags & FLUSH)
        return next(flushes, 0)

    def image(
        self, target: Path, boundary: int, rng: random.Random | None = None, survival: float = 0.0
    ) -> list[Entry]:
        """Write the disk as it was after a power cut behind the first ``boundary`` entries; the writes that were lost.

        Args:
            target: the file to write.
            boundary: 0 to the number of entries.
            rng: decides for every unflushed write whether it got through.
            survival: with which probability it does.
        """
        _copy(base(self.disk), target, self.disk.size)
        owed = self.owed(boundary)
        lost: list[Entry] = []
        with target.open("r+b") as out, self._journal.open("rb") as log:
            for index, entry in enumerate(self.entries[:boundary]):
                if not entry.is_write:
                    continue
                kept = index < owed or entry.flags & FUA or (rng is not None and rng.random() < survival)
                if not kept:
                    lost.append(entry)
                    continue
                log.seek(entry.data_at)
                out.seek(entry.start)
                out.write(bytes(entry.size) if entry.flags & DISCARD else log.read(entry.size))
        return lost


@dataclass(frozen=True)
class Cut:
    """What a power cut did: it came behind the first ``boundary`` of ``entries``; ``lost`` never reached the disk."""

    boundary: int
    entries: list[Entry]
    lost: list[Entry]


@contextmanager
def power_cut(
    node: Node, disk: Disk, rng: random.Random, *, since: int = 0, survival: float = 0.0, at: int | None = None
) -> Iterator[Cut]:
    """Cut a node's power; the disk is what was left of it. At the end the node is booted, with that disk.

    Args:
        node: the disk's only user.
        disk: one with a journal.
        rng: chooses the moment, among the writes behind the first ``since``, and what survives.
        since: a number of entries of the journal, as ``mark`` gives it.
        survival: the probability with which an unflushed write gets through all the same.
        at: the moment, instead of a random one.
    """
    node.power_off()
    journal = Journal(disk)
    boundary = rng.randint(since, len(journal.entries)) if at is None else at
    image = disk.path.with_suffix(".cut")
    lost = journal.image(image, boundary, rng, survival)
    restart(disk, image)
    try:
        yield Cut(boundary, journal.entries, lost)
    finally:
        node.power_on()


def mark(disk: Disk) -> int:
    """How many entries the journal has now."""
    return len(Journal(disk).entries)


def restart(disk: Disk, image: Path) -> None:
    """Make an image the disk's content and begin its journal anew. The disk must not be in use."""
    if disk.journal is None:
        raise ValueError(f"{disk.name} has no journal")
    image.replace(disk.path)
    _copy(disk.path, base(disk), disk.size)
    disk.journal.write_bytes(b"")


def base(disk: Disk) -> Path:
    """The disk's content when its journal began; absent for one that was empty."""
    return disk.path.with_suffix(".base")


def _copy(source: Path, target: Path, size: int) -> None:
    target.unlink(missing_ok=True)
    if source.exists():
        subprocess.run([shutil.which("cp") or "cp", "--sparse=always", source, target], check=True, timeout=300)
        return
    with target.open("wb") as file:
        file.truncate(size)


def _entries(path: Path) -> Iterator[Entry]:
    """The entries; of one that was being written when QEMU died nothing."""
    with path.open("rb") as log:
        log.seek(0, 2)
        end = log.tell()
        log.seek(0)
        head = log.read(_SUPER.size)
        if len(head) < _SUPER.size:
            return  # the node has not used the disk
        magic, _version, _count, sector_size = _SUPER.unpack(head)
        if magic != MAGIC:
            raise ValueError(f"{path} is no journal")
        at = sector_size
        while at + sector_size <= end:
            log.seek(at)
            sector, count, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
            data = 0 if flags & DISCARD else count * sector_size
            if not (count or flags) or at + sector_size + data > end:
                return  # QEMU updates the number of entries at times only: the end is where nothing follows
            yield Entry(sector * sector_size, count * sector_size, flags, at + sector_size)
            at += sector_size + data
