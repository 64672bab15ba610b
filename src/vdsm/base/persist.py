"""Files that survive a crash whole: the old content or the new one, never a part."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from vdsm.base.errors import Failed


def persist_file(path: str | os.PathLike[str], data: bytes, mode: int = 0o600) -> None:
    """Replace the file's content atomically and durably.

    The data goes to a new file beside it, to the disk, and then takes the name; a reader and a crash see the old or the
    new content. ``mode`` holds from the first byte on, whatever the umask.

    Raises:
        OSError: nothing was changed (or, if only the directory's fsync failed, the new content may not last).
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.urandom(6).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable: after a rename, a creation or a removal."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: str | os.PathLike[str], *, max_bytes: int = 1 << 20) -> bytes | None:
    """The file's content; None when there is no such file.

    Raises:
        Failed: it holds more than ``max_bytes``.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        return None
    if len(data) > max_bytes:
        raise Failed(f"reading {os.fspath(path)}", f"it holds more than {max_bytes} bytes")
    return data


class Claim:
    """One process's claim on a directory; the kernel lets it go when the process ends in any way."""

    def __init__(self, descriptor: int) -> None:
        """Keep the descriptor that holds the lock."""
        self._descriptor = descriptor

    def release(self) -> None:
        """Let it go; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def claim_directory(path: str | os.PathLike[str]) -> Claim:
    """Have a directory for this process alone, as far as others ask in the same way; no file is made for it.

    Raises:
        Failed: another process has it, or there is no such directory.
    """
    what = f"using {os.fspath(path)}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(what, error.strerror or str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Failed(what, "another process of the agent uses it") from error
    except OSError as error:
        os.close(descriptor)
        raise Failed(what, error.strerror or str(error)) from error
    return Claim(descriptor)
