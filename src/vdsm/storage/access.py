"""Access to the files of one storage domain, as calls that can be answered in another process.

    FileReader   only looks: everything may be asked again
    FileAccess   FileReader and what changes files

``localfiles.LocalFiles`` does the calls where it is; ``oop.pool.HelperPool`` has them done in a killable process per
domain.
Contract of both:

- Paths are absolute texts; bytes that are not UTF-8 are kept (surrogateescape). Links are not followed unless said.
- What the file system refuses is the ``OSError`` (``FileNotFoundError``, ...) of the same call in ``os``.
- A file system or helper that gives no answer is ``NotResponding`` (the call was not made), ``Unfinished`` (a change
  may still happen), or ``Busy``; ``LocalFiles`` cannot know, it just waits.
- One call carries at most ``MAX_BYTES`` of data; asking for more is ``OSError(EFBIG)``. Bulk data is not for here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

# The largest thing read or written at once is a pool's mailbox of 250 slots (1 024 000 bytes).
MAX_BYTES: Final = 4 << 20
# Direct I/O works on multiples of this on all storage (512 or 4096 byte sectors).
DIRECT_BYTES: Final = 4096
# What ``FileAccess.replace`` adds to a name while it writes the new content.
NEW_SUFFIX: Final = ".new"


class FileKind(StrEnum):
    """What a name stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    BLOCK = "block"
    CHAR = "char"
    FIFO = "fifo"
    SOCKET = "socket"


class FileStat(Struct, frozen=True, array_like=True):
    """What ``stat`` says of a name.

    Attributes:
        kind: what it is.
        size: bytes; 0 for devices.
        allocated: bytes that it takes on the disk.
        mode: the permission bits only (0o644).
        uid: its owner.
        gid: its group.
        links: how many names the file has.
        inode: its number; with ``device`` it tells files apart.
        device: the number of its file system.
        modified_ns: wall time of its last change of content, in nanoseconds since 1970.
    """

    kind: FileKind
    size: int
    allocated: int
    mode: int
    uid: int
    gid: int
    links: int
    inode: int
    device: int
    modified_ns: int


class FileEntry(Struct, frozen=True, array_like=True):
    """A name in a directory, and what it stands for (a link itself, not its target)."""

    name: str
    stat: FileStat


class SpaceFacts(Struct, frozen=True, array_like=True):
    """What ``statvfs`` says of a file system.

    Attributes:
        block_size: the unit of allocation, in bytes.
        total: bytes.
        free: bytes, those kept for root included.
        available: bytes that this process may use.
        files: how many files it can have; 0 when it does not say.
        files_free: how many more files it can have.
        read_only: whether it is mounted so.
    """

    block_size: int
    total: int
    free: int
    available: int
    files: int
    files_free: int
    read_only: bool


class FileReader(Protocol):
    """The calls that change nothing."""

    def within(self, timeout_s: float) -> Self:
        """The same files, with a deadline of ``timeout_s`` seconds on each call."""

    def read(self, path: str, *, offset: int = 0, size: int | None = None, direct: bool = False) -> bytes:
        """What a regular file or a block device holds.

        Args:
            path: where; a link is followed.
            offset: bytes from its beginning.
            size: at most so many bytes (fewer at the end); None is all up to the end.
            direct: past the page cache, so that what another host wrote is seen; ``offset`` must be a multiple of the
                storage's sector, ``size`` need not.
        """

    def read_many(self, paths: Sequence[str], *, size: int, direct: bool = False) -> list[bytes | OSError]:
        """The first ``size`` bytes of each of many small files, or why not, in the order of ``paths``.

        Stops adding content at ``MAX_BYTES`` in all: those after it are ``OSError(EFBIG)``.
        """

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted, without "." and ".."."""

    def scan(self, path: str) -> list[FileEntry]:
        """The names in a directory with their stat, sorted by name; names that vanish meanwhile are left out."""

    def stat(self, path: str, *, follow: bool = False) -> FileStat:
        """What the name stands for; with ``follow`` what a link leads to."""

    def stat_many(self, paths: Sequence[str]) -> list[FileStat | None]:
        """What each of many names stands for, a link itself, in the order of ``paths``; None: it is not there.

        Raises:
            OSError: one of them cannot be looked at.
        """

    def statvfs(self, path: str) -> SpaceFacts:
        """The space of the file system that holds the path."""

    def glob(self, pattern: str) -> list[str]:
        """The existing paths that fit a pattern of ``*``, ``?`` and ``[]``, sorted; a leading dot must be given."""

    def access(self, path: str, *, read: bool = False, write: bool = False, execute: bool = False) -> bool:
        """Whether the path is there and this process may do all that is asked; execute is search for directories."""


class FileAccess(FileReader, Protocol):
    """All calls. What returns is durable where it says so, and in the page cache or on the server otherwise."""

    def create(self, path: str, data: bytes = b"", *, mode: int = 0o644) -> None:
        """Make a new file with this content, durably; ``mode`` whatever the umask.

        Raises:
            FileExistsError: the name is taken, also by a link that leads nowhere.
        """

    def replace(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Put a file with this content in place of another or of none, atomically and durably.

        The content goes to ``PATH.new`` first; what a crash left of that is removed. Two at once on one path are not
        allowed: its writer holds a lock. Hard links of the old file keep the old content.
        """

    def write_at(self, path: str, offset: int, data: bytes, *, direct: bool = False) -> None:
        """Overwrite a part of an existing file or block device, durably; a link is followed.

        ``direct`` needs ``offset`` and the length in multiples of the storage's sector.
        """

    def truncate(self, path: str, size: int, *, create: bool = False, mode: int = 0o644) -> None:
        """Set a file's size in bytes, durably; what is added is a hole. ``create`` makes a file that is not there."""

    def allocate(self, path: str, offset: int, length: int) -> None:
        """Take space on the disk for a part of an existing file, growing it if needed; it reads as zeros. Durable."""

    def touch(self, path: str, *, mode: int = 0o644) -> None:
        """Make an empty file if there is none; otherwise set its times to now."""

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """Make one directory, durably; ``mode`` whatever the umask."""

    def rmdir(self, path: str) -> None:
        """Remove an empty directory, durably."""

    def rename(self, path: str, target: str) -> None:
        """Give a file or directory another name in the same file system, durably; an existing file is replaced."""

    def link(self, path: str, target: str) -> None:
        """Give a file one more name, ``target``, durably."""

    def unlink(self, path: str) -> None:
        """Remove a name, durably."""

    def chmod(self, path: str, mode: int) -> None:
        """Set permission bits; a link is followed."""

    def fsync(self, path: str) -> None:
        """Make a file's content, or a directory's names, durable."""

    def probe_block_size(self, path: str) -> int:
        """The smallest direct write that the directory's file system takes: 1 (it does not tell), 512 or 4096 bytes.

        A file ``.prob-...`` is made in it and removed, as the original's helper does (storage-format: block size).

        Raises:
            OSError: EINVAL when direct I/O does not work there.
        """
