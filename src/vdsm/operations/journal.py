"""The journal: one small JSON file per operation, replaced as a whole.

Files and not a database, because the same journal must work on a storage domain, where the next metadata writer, on
another host, reads it: SQLite does not on NFS. An operation's record has one writer and is small, so replacing it costs
no more than a transaction; operations do not wait for one another; and a person can read it.

    DIRECTORY/ID.json       a record
    DIRECTORY/ID.json.new   what a crash left of writing one: removed when the journal is read
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

from vdsm.base import persist
from vdsm.operations.records import FORMAT, Record

_SUFFIX: Final = ".json"
_NEW: Final = ".new"
_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Damaged:
    """A record that cannot be read; it is left as it is, and named."""

    id: str
    reason: str


class JournalStore(Protocol):
    """Where records are. May be used by many threads at once, by one for each operation.

    Every call may raise ``OSError``, ``NotResponding`` or ``Unfinished``: then it is not known what is in the journal,
    and the operation must not go on.
    """

    def load(self) -> tuple[list[Record], list[Damaged]]:
        """All records, the oldest first, and what cannot be read."""

    def write(self, record: Record) -> None:
        """Put a record in place of the one of the same id or of none; durable when it returns."""

    def remove(self, operation_id: str) -> None:
        """Remove a record, durably; one that is not there does no harm."""


class JournalFiles(Protocol):
    """The few calls of file access that a journal needs; ``storage.access.FileAccess`` has them all."""

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""

    def read(self, path: str) -> bytes:
        """A file's content."""

    def replace(self, path: str, data: bytes, *, mode: int) -> None:
        """Put a file in place of another or of none, atomically and durably, by way of ``PATH.new``."""

    def unlink(self, path: str) -> None:
        """Remove a name, durably."""


class HostFiles:
    """``JournalFiles`` of this host."""

    def listdir(self, path: str) -> list[str]:
        """See ``JournalFiles.listdir``; makes the directory if it is not there."""
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.listdir(path)  # noqa: PTH208 - names, not paths

    def read(self, path: str) -> bytes:
        """See ``JournalFiles.read``."""
        data = persist.read_file(path)
        if data is None:
            raise FileNotFoundError(path)
        return data

    def replace(self, path: str, data: bytes, *, mode: int) -> None:
        """See ``JournalFiles.replace``."""
        fresh = Path(path + _NEW)
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        persist.sync_directory(fresh.parent)

    def unlink(self, path: str) -> None:
        """See ``JournalFiles.unlink``."""
        Path(path).unlink()
        persist.sync_directory(Path(path).parent)


class FileJournal:
    """``JournalStore`` in a directory, of this host or of a storage domain."""

    def __init__(self, files: JournalFiles, directory: str) -> None:
        self._files: Final = files
        self._directory: Final = directory

    def load(self) -> tuple[list[Record], list[Damaged]]:
        """See ``JournalStore.load``. Removes what interrupted writes have left: their operations have older records."""
        records: list[Record] = []
        damaged: list[Damaged] = []
        for name in self._files.listdir(self._directory):
            path = f"{self._directory}/{name}"
            if name.endswith(_SUFFIX + _NEW):
                self._files.unlink(path)
            elif name.endswith(_SUFFIX):
                found = _parse(name.removesuffix(_SUFFIX), self._files.read(path))
                if isinstance(found, Damaged):
                    damaged.append(found)
                else:
                    records.append(found)
        return _ordered(records), damaged

    def write(self, record: Record) -> None:
        """See ``JournalStore.write``."""
        self._files.replace(self._path(record.id), msgspec.json.encode(record), mode=_MODE)

    def remove(self, operation_id: str) -> None:
        """See ``JournalStore.remove``."""
        try:
            self._files.unlink(self._path(operation_id))
        except FileNotFoundError:
            return

    def _path(self, operation_id: str) -> str:
        return f"{self._directory}/{operation_id}{_SUFFIX}"


class MemoryJournal:
    """``JournalStore`` that lasts as long as its object: for work that need not survive the agent, and for tests."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    def load(self) -> tuple[list[Record], list[Damaged]]:
        """See ``JournalStore.load``."""
        found = [_parse(name, data) for name, data in list(self._records.items())]
        return (
            _ordered(item for item in found if isinstance(item, Record)),
            [item for item in found if isinstance(item, Damaged)],
        )

    def write(self, record: Record) -> None:
        """See ``JournalStore.write``."""
        self._records[record.id] = msgspec.json.encode(record)

    def remove(self, operation_id: str) -> None:
        """See ``JournalStore.remove``."""
        self._records.pop(operation_id, None)


def _parse(name: str, data: bytes) -> Record | Damaged:
    try:
        record = msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Damaged(name, str(error))
    if record.format != FORMAT:
        return Damaged(name, f"it has format {record.format}; this agent knows {FORMAT}")
    if record.id != name or not 0 <= record.reached <= len(record.steps):
        return Damaged(name, "its name or numbers are not its own")
    return record


def _ordered(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.begun, record.id))
