"""The files of an ISO domain: installation media and floppies, which lie flat in one image's directory.

They have no metadata and are put there by other ways. Only regular files are named, and no name leads out of the
directory, so whatever is listed can be looked up again.

Source: storage format, section 1.4.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vdsm.storage.access import FileEntry, FileKind
from vdsm.storage.domains.domain import Domain
from vdsm.storage.domains.domain_errors import NoFileList
from vdsm.storage.errors import InvalidParameter
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree
from vdsm.storage.kinds import DomainClass

READABLE: Final = 0
UNREADABLE: Final = 469
"""The status of a file that QEMU may not read: the original's number for wrong permissions."""

_QEMU_GROUPS: Final = frozenset({tree.GROUP, 107})
_QEMU_USER: Final = 107
_LONGEST_PATTERN: Final = 255


@dataclass(frozen=True, slots=True)
class IsoFile:
    """One file.

    Attributes:
        status: 0, or the number of the error that keeps VMs from it.
        size: bytes.
        modified_s: wall time of its last change, in seconds since the epoch.
    """

    status: int
    size: int
    modified_s: int


def iso_list(domain: Domain, extension: str = "iso") -> list[str]:
    """The names of the files with this extension, in any case, sorted.

    Raises:
        See ``file_stats``.
    """
    return sorted(file_stats(domain, f"*.{extension}"))


def file_stats(domain: Domain, pattern: str = "*", *, case_sensitive: bool = False) -> dict[str, IsoFile]:
    """The files whose names fit a pattern of ``*``, ``?`` and ``[]``.

    Raises:
        NoFileList: the domain is no ISO domain.
        InvalidParameter: the pattern cannot be one.
        StorageFailed, Unfinished, NotResponding: the storage does not let itself be looked at.
    """
    if domain.domain_class is not DomainClass.ISO:
        raise NoFileList(domain.id)
    fits = _matcher(pattern, case_sensitive=case_sensitive)
    path = directory(domain)
    with told(f"listing {path}"):
        entries = domain.files.scan(path)
    return {
        entry.name: IsoFile(_status(entry), entry.stat.size, entry.stat.modified_ns // 1_000_000_000)
        for entry in entries
        if entry.stat.kind is FileKind.FILE and _is_sane(entry.name) and fits(entry.name)
    }


def directory(domain: Domain) -> str:
    """Where the files are."""
    return f"{domain.path}/{tree.IMAGES}/{tree.ISO_IMAGE}"


def _matcher(pattern: str, *, case_sensitive: bool) -> Callable[[str], object]:
    if len(pattern) > _LONGEST_PATTERN or "/" in pattern or "\0" in pattern:
        raise InvalidParameter("pattern", f"is no pattern for names: {pattern!r:.80}")
    flags = re.NOFLAG if case_sensitive else re.IGNORECASE
    return re.compile(fnmatch.translate(pattern), flags).match


def _is_sane(name: str) -> bool:
    """Whether a name can be shown and asked for: one part of a path, in text that UTF-8 can write."""
    if name in {"", ".", ".."} or "/" in name:
        return False
    return name.isprintable()


def _status(entry: FileEntry) -> int:
    stat = entry.stat
    if stat.uid == _QEMU_USER:
        return READABLE if stat.mode & 0o400 else UNREADABLE
    readable = stat.mode & (0o040 if stat.gid in _QEMU_GROUPS else 0o004)
    return READABLE if readable else UNREADABLE
