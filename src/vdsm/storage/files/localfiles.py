"""The calls of ``access.FileAccess``, done here and now: in the helper processes, and for files that cannot hang.

Kept free of imports: every helper process pays for them.
"""

from __future__ import annotations

import errno
import fnmatch
import mmap
import os
import re
import stat as modes
from typing import TYPE_CHECKING, Final

from vdsm.storage.access import DIRECT_BYTES, MAX_BYTES, FileEntry, FileKind, FileStat, SpaceFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

_KINDS: Final = {
    modes.S_IFREG: FileKind.FILE,
    modes.S_IFDIR: FileKind.DIRECTORY,
    modes.S_IFLNK: FileKind.LINK,
    modes.S_IFBLK: FileKind.BLOCK,
    modes.S_IFCHR: FileKind.CHAR,
    modes.S_IFIFO: FileKind.FIFO,
    modes.S_IFSOCK: FileKind.SOCKET,
}
_READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class LocalReader:
    """``access.FileReader`` in this process."""

    def within(self, timeout_s: float) -> Self:  # noqa: ARG002 - nothing here can be given up
        """The same: a system call has no deadline."""
        return self

    def read(self, path: str, *, offset: int = 0, size: int | None = None, direct: bool = False) -> bytes:
        """See ``FileReader.read``. A pipe, a terminal or a socket is ``OSError(EINVAL)``: it is never waited for."""
        with _open(path, _READ_FLAGS | (os.O_DIRECT if direct else 0)) as descriptor:
            length = _content_size(descriptor, path) - offset
            wanted = max(0, length if size is None else min(size, length))
            if wanted > MAX_BYTES:
                raise OSError(errno.EFBIG, f"more than {MAX_BYTES} bytes to read", path)
            return _read_direct(descriptor, offset, wanted) if direct else _read(descriptor, offset, wanted)

    def read_many(self, paths: Sequence[str], *, size: int, direct: bool = False) -> list[bytes | OSError]:
        """See ``FileReader.read_many``."""
        found: list[bytes | OSError] = []
        room = MAX_BYTES
        for path in paths:
            try:
                data = self.read(path, size=size, direct=direct)
            except OSError as error:
                found.append(error)
                continue
            if len(data) > room:
                room = 0
                found.append(OSError(errno.EFBIG, f"more than {MAX_BYTES} bytes to read in all", path))
                continue
            room -= len(data)
            found.append(data)
        return found

    def listdir(self, path: str) -> list[str]:
        """See ``FileReader.listdir``."""
        return sorted(os.listdir(path))  # noqa: PTH208 - pathlib is an import that helpers do without

    def scan(self, path: str) -> list[FileEntry]:
        """See ``FileReader.scan``."""
        return sorted(_entries(path), key=lambda entry: entry.name)

    def stat(self, path: str, *, follow: bool = False) -> FileStat:
        """See ``FileReader.stat``."""
        return _facts(os.stat(path, follow_symlinks=follow))  # noqa: PTH116 - as above

    def stat_many(self, paths: Sequence[str]) -> list[FileStat | None]:
        """See ``FileReader.stat_many``."""
        return [_facts_of(path) for path in paths]

    def statvfs(self, path: str) -> SpaceFacts:
        """See ``FileReader.statvfs``."""
        facts = os.statvfs(path)
        return SpaceFacts(
            block_size=facts.f_bsize,
            total=facts.f_blocks * facts.f_frsize,
            free=facts.f_bfree * facts.f_frsize,
            available=facts.f_bavail * facts.f_frsize,
            files=facts.f_files,
            files_free=facts.f_ffree,
            read_only=bool(facts.f_flag & os.ST_RDONLY),
        )

    def glob(self, pattern: str) -> list[str]:
        """See ``FileReader.glob``."""
        first, *parts = pattern.split("/")
        if first or not all(parts):
            raise OSError(errno.EINVAL, "not an absolute pattern", pattern)
        found = [""]
        for part in parts:
            if any(sign in part for sign in "*?["):
                found = [path for base in found for path in _matches(base, part)]
            else:
                # One name is looked for in thousands of directories: without an exception for each that lacks it.
                found = [path for base in found if os.access(path := f"{base}/{part}", os.F_OK, follow_symlinks=False)]
        return sorted(found)

    def access(self, path: str, *, read: bool = False, write: bool = False, execute: bool = False) -> bool:
        """See ``FileReader.access``."""
        wanted = os.F_OK | (os.R_OK if read else 0) | (os.W_OK if write else 0) | (os.X_OK if execute else 0)
        return os.access(path, wanted)


class LocalFiles(LocalReader):
    """``access.FileAccess`` in this process."""

    def create(self, path: str, data: bytes = b"", *, mode: int = 0o644) -> None:
        """See ``FileAccess.create``; when writing fails, the new name is gone again."""
        _write_new(path, data, mode)
        _sync_parent(path)

    def replace(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """See ``FileAccess.replace``.

        A leftover ``PATH.new`` is unlinked and not reopened: what a helper stuck in the kernel may still write goes to
        a file without a name.
        """
        fresh = f"{path}.new"
        _remove(fresh)
        _write_new(fresh, data, mode)
        try:
            os.rename(fresh, path)  # noqa: PTH104 - as above
        except OSError:
            _remove(fresh)
            raise
        _sync_parent(path)

    def write_at(self, path: str, offset: int, data: bytes, *, direct: bool = False) -> None:
        """See ``FileAccess.write_at``."""
        _refuse_large(path, data)
        with _open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECT if direct else 0)) as descriptor:
            _content_size(descriptor, path)
            _write(descriptor, offset, _aligned(data, len(data)) if direct else memoryview(data))
            os.fsync(descriptor)

    def truncate(self, path: str, size: int, *, create: bool = False, mode: int = 0o644) -> None:
        """See ``FileAccess.truncate``."""
        if create:
            try:
                descriptor = os.open(path, _NEW_FLAGS, mode)
            except FileExistsError:
                pass  # then its size is set below
            else:
                with _Closing(descriptor, path):
                    os.fchmod(descriptor, mode)
                    os.ftruncate(descriptor, size)
                    os.fsync(descriptor)
                _sync_parent(path)
                return
        with _open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK) as descriptor:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)

    def allocate(self, path: str, offset: int, length: int) -> None:
        """See ``FileAccess.allocate``. glibc's posix_fallocate writes into every block where the kernel has no way."""
        with _open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK) as descriptor:
            os.posix_fallocate(descriptor, offset, length)
            os.fsync(descriptor)

    def touch(self, path: str, *, mode: int = 0o644) -> None:
        """See ``FileAccess.touch``."""
        try:
            self.create(path, mode=mode)
        except FileExistsError:
            os.utime(path)

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """See ``FileAccess.mkdir``."""
        os.mkdir(path, mode)  # noqa: PTH102 - as above
        os.chmod(path, mode)  # noqa: PTH101 - as above
        _sync_parent(path)

    def rmdir(self, path: str) -> None:
        """See ``FileAccess.rmdir``."""
        os.rmdir(path)  # noqa: PTH106 - as above
        _sync_parent(path)

    def rename(self, path: str, target: str) -> None:
        """See ``FileAccess.rename``."""
        os.rename(path, target)  # noqa: PTH104 - as above
        _sync_parent(target)
        if os.path.dirname(path) != os.path.dirname(target):  # noqa: PTH120 - as above
            _sync_parent(path)

    def link(self, path: str, target: str) -> None:
        """See ``FileAccess.link``."""
        os.link(path, target, follow_symlinks=False)
        _sync_parent(target)

    def unlink(self, path: str) -> None:
        """See ``FileAccess.unlink``."""
        os.unlink(path)  # noqa: PTH108 - as above
        _sync_parent(path)

    def chmod(self, path: str, mode: int) -> None:
        """See ``FileAccess.chmod``."""
        os.chmod(path, mode)  # noqa: PTH101 - as above

    def fsync(self, path: str) -> None:
        """See ``FileAccess.fsync``."""
        with _open(path, _READ_FLAGS) as descriptor:
            os.fsync(descriptor)

    def probe_block_size(self, path: str) -> int:
        """See ``FileAccess.probe_block_size``."""
        probe = f"{path}/.prob-{os.urandom(16).hex()}"
        descriptor = os.open(probe, _NEW_FLAGS | os.O_DIRECT | os.O_DSYNC, 0o600)
        try:
            with _Closing(descriptor, path):
                for size in (1, 512, DIRECT_BYTES):
                    if _takes(descriptor, _aligned(b"", size)):
                        return size
        finally:
            _remove(probe)
        raise OSError(errno.EINVAL, "direct I/O does not work", path)


class _Closing:
    """Closes a descriptor at the end of a block; errors of calls that only know the descriptor get the path."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor: Final = descriptor
        self._path: Final = path

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self._path
        os.close(self._descriptor)


def _open(path: str, flags: int) -> _Closing:
    return _Closing(os.open(path, flags), path)


def _content_size(descriptor: int, path: str) -> int:
    """The bytes of a regular file or a block device.

    O_NONBLOCK keeps the opening of a pipe or a tape from waiting; here it is refused.
    """
    facts = os.fstat(descriptor)
    if modes.S_ISREG(facts.st_mode):
        return facts.st_size
    if modes.S_ISBLK(facts.st_mode):
        return os.lseek(descriptor, 0, os.SEEK_END)
    if modes.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "neither a regular file nor a block device", path)


def _read(descriptor: int, offset: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.pread(descriptor, size - len(data), offset + len(data))
        if not part:
            break
        data += part
    return bytes(data)


def _read_direct(descriptor: int, offset: int, size: int) -> bytes:
    """Read through a page-aligned buffer; stops at the end as it was when asked: beyond it some storage says EINVAL."""
    room = -(-size // DIRECT_BYTES) * DIRECT_BYTES
    if not room:
        return b""
    view = _aligned(b"", room)
    done = 0
    while done < size:
        count = os.preadv(descriptor, [view[done:]], offset + done)
        done += count
        # After a short read the place is no longer aligned: it was the end.
        if count == 0 or count % 512:
            break
    return bytes(view[: min(done, size)])


def _aligned(data: bytes, size: int) -> memoryview:
    """A copy of ``data`` and zeros up to ``size`` at the beginning of a page. Its memory goes with its last view."""
    pages = mmap.mmap(-1, max(1, size))
    pages[: len(data)] = data
    return memoryview(pages)[:size]


def _write(descriptor: int, offset: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def _write_new(path: str, data: bytes, mode: int) -> None:
    _refuse_large(path, data)
    descriptor = os.open(path, _NEW_FLAGS, mode)
    try:
        with _Closing(descriptor, path):
            os.fchmod(descriptor, mode)
            _write(descriptor, 0, memoryview(data))
            os.fsync(descriptor)
    except OSError:
        _remove(path)
        raise


def _refuse_large(path: str, data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"more than {MAX_BYTES} bytes to write", path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - as above
    except FileNotFoundError:
        return


def _sync_parent(path: str) -> None:
    directory = os.path.dirname(path.rstrip("/")) or "/"  # noqa: PTH120 - as above
    with _open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) as descriptor:
        os.fsync(descriptor)


def _takes(descriptor: int, data: memoryview) -> bool:
    try:
        return os.pwrite(descriptor, data, 0) == len(data)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False


def _facts(found: os.stat_result) -> FileStat:
    return FileStat(
        kind=_KINDS[modes.S_IFMT(found.st_mode)],
        size=found.st_size,
        allocated=found.st_blocks * 512,
        mode=modes.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        links=found.st_nlink,
        inode=found.st_ino,
        device=found.st_dev,
        modified_ns=found.st_mtime_ns,
    )


def _facts_of(path: str) -> FileStat | None:
    try:
        return _facts(os.lstat(path))
    except FileNotFoundError:
        return None


def _entries(path: str) -> Iterator[FileEntry]:
    with os.scandir(path) as found:
        for entry in found:
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield FileEntry(entry.name, _facts(facts))


def _matches(base: str, part: str) -> Iterator[str]:
    """The paths below ``base`` whose last part fits a pattern."""
    fits: Callable[[str], object] = re.compile(fnmatch.translate(part)).match
    try:
        names = os.listdir(base or "/")  # noqa: PTH208 - as above
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if (part.startswith(".") or not name.startswith(".")) and fits(name):
            yield f"{base}/{name}"
