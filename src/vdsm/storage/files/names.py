"""The names in a domain's image directories, kept while the directories' times say that nothing has changed.

    images/            one scan gives each directory with the time of its last change
      IMAGE/           listed again only when its time is another than when it was listed, or was still fresh then

A time can stay the same over two changes that follow each other within the clock's tick, which may be a second. So a
list counts only if it was made a while after its directory's time was first seen. On NFS the times are as old as the
client's cache of attributes, and so are the lists that would be made.
"""

from __future__ import annotations

import glob
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vdsm.base.clock import monotonic_s
from vdsm.storage.access import FileEntry, FileKind, FileReader

# Longer than the coarsest clock of a file system that is in use.
_TICK_S: Final = 2.5
# More than so many directories are listed in one call.
_FEW: Final = 32


@dataclass(frozen=True, slots=True)
class _Listed:
    """A directory as it was listed. ``since_s``: when its inode with this time was first seen; ``at_s``: listed."""

    key: tuple[int, int]
    since_s: float
    at_s: float
    names: tuple[str, ...]

    def counts(self, key: tuple[int, int]) -> bool:
        return self.key == key and self.at_s - self.since_s > _TICK_S


class ImageNames:
    """The names of all files in the directories below one; may be used by many threads at once.

    Args:
        reader: how files are reached.
        path: the directory of all images.
    """

    def __init__(self, reader: FileReader, path: str) -> None:
        self._reader: Final = reader
        self._path: Final = path
        self._lock = threading.Lock()
        self._listed: dict[str, _Listed] = {}

    def images(self) -> list[str]:
        """The names of the directories, sorted; and of what else is beside them."""
        return self._reader.listdir(self._path)

    def all(self) -> Mapping[str, tuple[str, ...]]:
        """What is in each directory; nothing in what is no directory.

        Raises:
            OSError: they cannot be listed.
        """
        began_s = monotonic_s()
        entries = self._reader.scan(self._path)
        with self._lock:
            before = self._listed
        changed = [entry for entry in entries if not _counts(before, entry)]
        names = self._list(changed)
        found: dict[str, _Listed] = {}
        for entry in entries:
            present = before.get(entry.name)
            if entry.name in names:
                same = present is not None and present.key == _key(entry)
                since_s = present.since_s if same and present is not None else began_s
                found[entry.name] = _Listed(_key(entry), since_s, began_s, tuple(sorted(names[entry.name])))
            elif present is not None:
                found[entry.name] = present
        with self._lock:
            self._listed = found
        return {name: listed.names for name, listed in found.items()}

    def _list(self, entries: list[FileEntry]) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {entry.name: [] for entry in entries}
        directories = [entry.name for entry in entries if entry.stat.kind is FileKind.DIRECTORY]
        if len(directories) <= _FEW:
            for name in directories:
                try:
                    found[name] = self._reader.listdir(f"{self._path}/{name}")
                except FileNotFoundError:
                    del found[name]
            return found
        for path in self._reader.glob(f"{glob.escape(self._path)}/*/*"):
            directory, name = path.rsplit("/", 2)[1:]
            if directory in found:
                found[directory].append(name)
        return found


def _key(entry: FileEntry) -> tuple[int, int]:
    return entry.stat.inode, entry.stat.modified_ns


def _counts(listed: Mapping[str, _Listed], entry: FileEntry) -> bool:
    present = listed.get(entry.name)
    return present is not None and present.counts(_key(entry))
