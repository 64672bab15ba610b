"""The door to a domain's files: few calls, each of which can be carried out by another process.

Paths are absolute texts. What the storage refuses comes as the ``OSError`` of its errno (``FileNotFoundError``,
``PermissionError``, ENOSPC, ESTALE, ...), what does not answer in time as ``Unfinished``. Two implementations:
``LocalFiles`` here, for local directories and tests, and the helper process for everything that can hang.

Metadata is read past the page cache and written through it, with fsync and rename: another host may write the same
file, and a reader must see the old text or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path
from typing import Final, Protocol

from vdsm.base.persist import sync_directory

_PAGE: Final = 4096
NEW: Final = ".new"  # a file's next content, until it takes the name


@unique
class FileKind(Enum):
    """What a name in a directory stands for; links are not followed."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the file system knows about a name.

    Attributes:
        kind: what it is; a symbolic link is not followed.
        size: bytes, by its length.
        allocated: bytes that it takes on the disk.
        mode: the permission bits.
        owner: user id.
        group: group id.
        links: number of its names.
        inode: its number in the file system: two names of one file have the same.
        modified_s: seconds since the epoch.
    """

    kind: FileKind
    size: int
    allocated: int
    mode: int
    owner: int
    group: int
    links: int
    inode: int
    modified_s: float


@dataclass(frozen=True, slots=True)
class FileSystemFacts:
    """A file system's room in bytes; ``free`` is what an ordinary user may take."""

    total: int
    free: int
    read_only: bool


class FileAccess(Protocol):
    """See the module."""

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file, past the page cache; fewer when the file ends before. ``None``: all that follow."""

    def read_many(self, paths: Sequence[str], limit: int) -> list[bytes | OSError]:
        """The first ``limit`` bytes of many files in one call; for each its bytes or what was wrong with it."""

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def list_many(self, paths: Sequence[str]) -> list[list[str] | OSError]:
        """The sorted names of many directories in one call; for each its names or what was wrong with it."""

    def stat(self, path: str) -> FileFacts:
        """What a name stands for; links are not followed."""

    def space(self, path: str) -> FileSystemFacts:
        """The room of the file system that the path is in."""

    def create(self, path: str, size: int, mode: int) -> None:
        """Make a new file of ``size`` zeros that take no room, with exactly this mode; FileExistsError if there."""

    def replace(self, path: str, data: bytes, mode: int) -> None:
        """Give a file this content in one step that survives a crash; made if absent. Breaks hard links."""

    def write(self, path: str, offset: int, data: bytes) -> None:
        """Put bytes into an existing file, durably; not atomic beyond a block."""

    def truncate(self, path: str, size: int) -> None:
        """Give an existing file this length, durably."""

    def preallocate(self, path: str, offset: int, length: int) -> None:
        """Make an existing file take its room now, in zeros where nothing was, growing it if need be."""

    def make_directory(self, path: str, mode: int) -> None:
        """Make a directory with exactly this mode; FileExistsError if there is something of the name."""

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""

    def rename(self, old: str, new: str) -> None:
        """Give a thing another name, durably; a file of that name is replaced."""

    def link(self, old: str, new: str) -> None:
        """Give a file a further name; FileExistsError if there is something of that name."""

    def unlink(self, path: str) -> None:
        """Take a file's name away."""

    def change_mode(self, path: str, mode: int) -> None:
        """Set the permission bits."""

    def sync(self, path: str) -> None:
        """Make a directory's names durable: those of link, unlink, create and make_directory."""


class LocalFiles:
    """File access in this process.

    Args:
        direct: read past the page cache. A file system that cannot is refused (EINVAL), because what other hosts
            write could not be seen; on a local directory the cache is always right.
    """

    def __init__(self, *, direct: bool) -> None:
        self._direct: Final = direct

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See FileAccess."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECT if self._direct else 0)
        with _opened(path, flags) as descriptor:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISBLK(found.st_mode):
                raise OSError(errno.EINVAL, "is no file", path)
            end = os.lseek(descriptor, 0, os.SEEK_END)
            stop = end if length is None else min(end, offset + length)
            return self._read(descriptor, offset, stop)

    def read_many(self, paths: Sequence[str], limit: int) -> list[bytes | OSError]:
        """See FileAccess."""
        found: list[bytes | OSError] = []
        for path in paths:
            try:
                found.append(self.read(path, 0, limit))
            except OSError as error:
                found.append(error)
        return found

    def list_directory(self, path: str) -> list[str]:
        """See FileAccess."""
        return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths, are what is asked for

    def list_many(self, paths: Sequence[str]) -> list[list[str] | OSError]:
        """See FileAccess."""
        found: list[list[str] | OSError] = []
        for path in paths:
            try:
                found.append(self.list_directory(path))
            except OSError as error:
                found.append(error)
        return found

    def stat(self, path: str) -> FileFacts:
        """See FileAccess."""
        found = os.lstat(path)
        return FileFacts(
            kind=_kind(found.st_mode),
            size=found.st_size,
            allocated=found.st_blocks * 512,
            mode=stat.S_IMODE(found.st_mode),
            owner=found.st_uid,
            group=found.st_gid,
            links=found.st_nlink,
            inode=found.st_ino,
            modified_s=found.st_mtime,
        )

    def space(self, path: str) -> FileSystemFacts:
        """See FileAccess."""
        found = os.statvfs(path)
        return FileSystemFacts(
            total=found.f_frsize * found.f_blocks,
            free=found.f_frsize * found.f_bavail,
            read_only=bool(found.f_flag & os.ST_RDONLY),
        )

    def create(self, path: str, size: int, mode: int) -> None:
        """See FileAccess."""
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode) as descriptor:
            os.fchmod(descriptor, mode)
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        sync_directory(Path(path).parent)

    def replace(self, path: str, data: bytes, mode: int) -> None:
        """See FileAccess."""
        new = path + NEW
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with _opened(new, flags, mode) as descriptor:
            os.fchmod(descriptor, mode)
            _write_all(descriptor, 0, data)
            os.fsync(descriptor)
        self.rename(new, path)

    def write(self, path: str, offset: int, data: bytes) -> None:
        """See FileAccess."""
        with _opened(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW) as descriptor:
            _write_all(descriptor, offset, data)
            os.fsync(descriptor)

    def truncate(self, path: str, size: int) -> None:
        """See FileAccess."""
        with _opened(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW) as descriptor:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)

    def preallocate(self, path: str, offset: int, length: int) -> None:
        """See FileAccess."""
        with _opened(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW) as descriptor:
            os.posix_fallocate(descriptor, offset, length)
            os.fsync(descriptor)

    def make_directory(self, path: str, mode: int) -> None:
        """See FileAccess."""
        Path(path).mkdir(mode)
        Path(path).chmod(mode)
        sync_directory(Path(path).parent)

    def remove_directory(self, path: str) -> None:
        """See FileAccess."""
        Path(path).rmdir()
        sync_directory(Path(path).parent)

    def rename(self, old: str, new: str) -> None:
        """See FileAccess."""
        Path(old).rename(new)
        sync_directory(Path(new).parent)
        if Path(old).parent != Path(new).parent:
            sync_directory(Path(old).parent)

    def link(self, old: str, new: str) -> None:
        """See FileAccess."""
        os.link(old, new, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        """See FileAccess."""
        Path(path).unlink()

    def change_mode(self, path: str, mode: int) -> None:
        """See FileAccess."""
        Path(path).chmod(mode)

    def sync(self, path: str) -> None:
        """See FileAccess."""
        sync_directory(path)

    def _read(self, descriptor: int, offset: int, stop: int) -> bytes:
        if not self._direct:
            return _read_all(descriptor, offset, stop)
        # Direct reads want whole pages in a page-aligned buffer, and fail at an offset beyond the end.
        first = offset - offset % _PAGE
        if stop <= offset:
            return b""
        room = stop - first + -(stop - first) % _PAGE
        with mmap.mmap(-1, room) as buffer:
            have = 0
            while first + have < stop:
                view = memoryview(buffer)[have:]
                try:
                    count = os.preadv(descriptor, [view], first + have)
                finally:
                    view.release()
                have += count
                if count % _PAGE:
                    break
            return buffer[offset - first : min(have, stop - first)]


def _read_all(descriptor: int, offset: int, stop: int) -> bytes:
    parts = []
    while offset < stop and (part := os.pread(descriptor, stop - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _write_all(descriptor: int, offset: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count


@contextlib.contextmanager
def _opened(path: str, flags: int, mode: int = 0o600) -> Iterator[int]:
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _kind(mode: int) -> FileKind:
    if stat.S_ISREG(mode):
        return FileKind.FILE
    if stat.S_ISDIR(mode):
        return FileKind.DIRECTORY
    return FileKind.LINK if stat.S_ISLNK(mode) else FileKind.OTHER
