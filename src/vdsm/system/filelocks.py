"""Which files QEMU has open on this host, by the locks that it keeps on them: the kernel's list, /proc/locks.

    1: OFDLCK ADVISORY  READ  -1 08:01:131074 100 101
       kind                   pid  device:inode  first and last byte

QEMU locks single bytes from 100 on for what it does with an image, and from 200 on for what it keeps others from
(block/file-posix.c: RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE). The list is in the kernel's memory: no storage is asked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_LOCKS: Final = Path("/proc/locks")
_BYTES: Final = range(100, 300)


class FileNumber(NamedTuple):
    """A file of this host: its device's numbers, and its inode."""

    major: int
    minor: int
    inode: int

    @classmethod
    def of(cls, device: int, inode: int) -> FileNumber:
        """From what ``stat`` says."""
        return cls(os.major(device), os.minor(device), inode)


def opened_by_qemu() -> frozenset[FileNumber]:
    """The files that QEMU, or one of its tools, has open now.

    Raises:
        OSError: the kernel does not tell.
    """
    return parse_locks(_LOCKS.read_text(encoding="ascii"))


def parse_locks(text: str) -> frozenset[FileNumber]:
    """The files of the list on which there are locks like QEMU's."""
    return frozenset(found for line in text.splitlines() if (found := _qemu_s(line.split())) is not None)


def _qemu_s(words: list[str]) -> FileNumber | None:
    # One who waits for a lock has an arrow before its kind.
    if len(words) != 8 or words[1] != "OFDLCK" or not words[6].isdigit() or int(words[6]) not in _BYTES:
        return None
    try:
        major, minor, inode = words[5].split(":")
        return FileNumber(int(major, 16), int(minor, 16), int(inode))
    except ValueError:
        return None
