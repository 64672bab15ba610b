"""The image daemon's checksum of a local file: BLAKE2b of the BLAKE2b (32 bytes) of each block of 4 MiB.

Blocks of zeros need not be read, so a sparse file costs what its data costs.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK: Final = 4 << 20
_DIGEST: Final = 32


def of_file(path: str, size: int) -> str:
    """The checksum of a file as if zeros followed up to ``size`` bytes."""
    whole = hashlib.blake2b(digest_size=_DIGEST)
    zeros = _digest(bytes(BLOCK))
    buffer = memoryview(bytearray(BLOCK))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        length = os.fstat(descriptor).st_size
        data = _DataFinder(descriptor, length)
        for start in range(0, size, BLOCK):
            room = min(BLOCK, size - start)
            if room == BLOCK and not data.any_in(start, start + room):
                whole.update(zeros)
                continue
            _fill(descriptor, start, buffer[:room])
            whole.update(_digest(buffer[:room]))
    finally:
        os.close(descriptor)
    return whole.hexdigest()


def reads_as(path: str, size: int, read: Callable[[int, memoryview], None]) -> bool:
    """Whether an image that is longer than a file begins with the file's ``size`` bytes; reads all of it."""
    ours, theirs = memoryview(bytearray(BLOCK)), memoryview(bytearray(BLOCK))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for start in range(0, size, BLOCK):
            room = min(BLOCK, size - start)
            _fill(descriptor, start, ours[:room])
            read(start, theirs[:room])
            if ours[:room] != theirs[:room]:
                return False
    finally:
        os.close(descriptor)
    return True


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _fill(descriptor: int, start: int, into: memoryview) -> None:
    done = 0
    while done < len(into):
        count = os.preadv(descriptor, [into[done:]], start + done)
        if not count:
            into[done:] = bytes(len(into) - done)
            return
        done += count


class _DataFinder:
    """Whether a range that lies behind all earlier ones has data."""

    def __init__(self, descriptor: int, length: int) -> None:
        self._ranges = data_ranges(descriptor, length)
        self._current = next(self._ranges, None)

    def any_in(self, start: int, end: int) -> bool:
        while self._current is not None and self._current[1] <= start:
            self._current = next(self._ranges, None)
        return self._current is not None and self._current[0] < end


def data_ranges(descriptor: int, length: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes, as start and end; one of all where the file system does not tell."""
    position = 0
    while position < length:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole follows
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), length)
        yield start, end
        position = end
