"""The calls of ``access.FileAccess``, done by a domain's helper process."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from vdsm.storage.access import MAX_BYTES

if TYPE_CHECKING:
    from typing import Self

    from vdsm.storage.access import FileEntry, FileStat, SpaceFacts

# Name, positional arguments (texts are paths), options, seconds.
Ask = Callable[[str, list[Any], dict[str, Any], float], Any]


class HelperReader:
    """``access.FileReader`` by way of a helper process; each call has a deadline of ``timeout_s`` seconds."""

    def __init__(self, ask: Ask, timeout_s: float) -> None:
        self._ask: Final = ask
        self._timeout_s: Final = timeout_s

    def within(self, timeout_s: float) -> Self:
        """See ``FileReader.within``."""
        return type(self)(self._ask, timeout_s)

    def read(self, path: str, *, offset: int = 0, size: int | None = None, direct: bool = False) -> bytes:
        """See ``FileReader.read``."""
        found: bytes = self._ask("read", [path], {"offset": offset, "size": size, "direct": direct}, self._timeout_s)
        return found

    def read_many(self, paths: Sequence[str], *, size: int, direct: bool = False) -> list[bytes | OSError]:
        """See ``FileReader.read_many``."""
        found: list[bytes | OSError] = self._ask(
            "read_many", [list(paths)], {"size": size, "direct": direct}, self._timeout_s
        )
        return found

    def listdir(self, path: str) -> list[str]:
        """See ``FileReader.listdir``."""
        found: list[str] = self._ask("listdir", [path], {}, self._timeout_s)
        return found

    def scan(self, path: str) -> list[FileEntry]:
        """See ``FileReader.scan``."""
        found: list[FileEntry] = self._ask("scan", [path], {}, self._timeout_s)
        return found

    def stat(self, path: str, *, follow: bool = False) -> FileStat:
        """See ``FileReader.stat``."""
        found: FileStat = self._ask("stat", [path], {"follow": follow}, self._timeout_s)
        return found

    def stat_many(self, paths: Sequence[str]) -> list[FileStat | None]:
        """See ``FileReader.stat_many``."""
        found: list[FileStat | None] = self._ask("stat_many", [list(paths)], {}, self._timeout_s)
        return found

    def statvfs(self, path: str) -> SpaceFacts:
        """See ``FileReader.statvfs``."""
        found: SpaceFacts = self._ask("statvfs", [path], {}, self._timeout_s)
        return found

    def glob(self, pattern: str) -> list[str]:
        """See ``FileReader.glob``."""
        found: list[str] = self._ask("glob", [pattern], {}, self._timeout_s)
        return found

    def access(self, path: str, *, read: bool = False, write: bool = False, execute: bool = False) -> bool:
        """See ``FileReader.access``."""
        found: bool = self._ask("access", [path], {"read": read, "write": write, "execute": execute}, self._timeout_s)
        return found


class HelperFiles(HelperReader):
    """``access.FileAccess`` by way of a helper process."""

    def create(self, path: str, data: bytes = b"", *, mode: int = 420) -> None:
        """See ``FileAccess.create``."""
        _refuse_large(path, data)
        self._ask("create", [path, data], {"mode": mode}, self._timeout_s)

    def replace(self, path: str, data: bytes, *, mode: int = 420) -> None:
        """See ``FileAccess.replace``."""
        _refuse_large(path, data)
        self._ask("replace", [path, data], {"mode": mode}, self._timeout_s)

    def write_at(self, path: str, offset: int, data: bytes, *, direct: bool = False) -> None:
        """See ``FileAccess.write_at``."""
        _refuse_large(path, data)
        self._ask("write_at", [path, offset, data], {"direct": direct}, self._timeout_s)

    def truncate(self, path: str, size: int, *, create: bool = False, mode: int = 420) -> None:
        """See ``FileAccess.truncate``."""
        self._ask("truncate", [path, size], {"create": create, "mode": mode}, self._timeout_s)

    def allocate(self, path: str, offset: int, length: int) -> None:
        """See ``FileAccess.allocate``."""
        self._ask("allocate", [path, offset, length], {}, self._timeout_s)

    def touch(self, path: str, *, mode: int = 420) -> None:
        """See ``FileAccess.touch``."""
        self._ask("touch", [path], {"mode": mode}, self._timeout_s)

    def mkdir(self, path: str, *, mode: int = 493) -> None:
        """See ``FileAccess.mkdir``."""
        self._ask("mkdir", [path], {"mode": mode}, self._timeout_s)

    def rmdir(self, path: str) -> None:
        """See ``FileAccess.rmdir``."""
        self._ask("rmdir", [path], {}, self._timeout_s)

    def rename(self, path: str, target: str) -> None:
        """See ``FileAccess.rename``."""
        self._ask("rename", [path, target], {}, self._timeout_s)

    def link(self, path: str, target: str) -> None:
        """See ``FileAccess.link``."""
        self._ask("link", [path, target], {}, self._timeout_s)

    def unlink(self, path: str) -> None:
        """See ``FileAccess.unlink``."""
        self._ask("unlink", [path], {}, self._timeout_s)

    def chmod(self, path: str, mode: int) -> None:
        """See ``FileAccess.chmod``."""
        self._ask("chmod", [path, mode], {}, self._timeout_s)

    def fsync(self, path: str) -> None:
        """See ``FileAccess.fsync``."""
        self._ask("fsync", [path], {}, self._timeout_s)

    def probe_block_size(self, path: str) -> int:
        """See ``FileAccess.probe_block_size``."""
        found: int = self._ask("probe_block_size", [path], {}, self._timeout_s)
        return found


def _refuse_large(path: str, data: bytes) -> None:
    """Before it fills the socket; the helper would refuse it too."""
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"more than {MAX_BYTES} bytes to write", path)
