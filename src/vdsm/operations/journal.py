"""The journal: one small JSON record per operation, replaced as a whole at each boundary.

Files and not a database, because the same journal must work on a storage domain, where the next metadata writer, on
another host, reads it: SQLite does not on NFS. An operation's record has one writer and is small; operations do not
wait for one another; and a person can read it. This host's own journal is ``host_journal.HostJournal``; on a domain:

    DIRECTORY/ID.json       a record
    DIRECTORY/ID.json.new   what a crash left of writing one: removed when the journal is read
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

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


class FileJournal:
    """``JournalStore`` in an existing directory that is reached through file access: of a storage domain."""

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
                found = parse(name.removesuffix(_SUFFIX), self._files.read(path))
                if isinstance(found, Damaged):
                    damaged.append(found)
                else:
                    records.append(found)
        return ordered(records), damaged

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
        found = [parse(name, data) for name, data in list(self._records.items())]
        return (
            ordered(item for item in found if isinstance(item, Record)),
            [item for item in found if isinstance(item, Damaged)],
        )

    def write(self, record: Record) -> None:
        """See ``JournalStore.write``."""
        self._records[record.id] = msgspec.json.encode(record)

    def remove(self, operation_id: str) -> None:
        """See ``JournalStore.remove``."""
        self._records.pop(operation_id, None)


def parse(name: str, data: bytes) -> Record | Damaged:
    """What a store has under an operation's id."""
    try:
        record = msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Damaged(name, str(error))
    if record.format != FORMAT:
        return Damaged(name, f"it has format {record.format}; this agent knows {FORMAT}")
    if record.id != name or not 0 <= record.reached <= len(record.steps):
        return Damaged(name, "its name or numbers are not its own")
    return record


def ordered(records: Iterable[Record]) -> list[Record]:
    """The oldest first."""
    return sorted(records, key=lambda record: (record.begun, record.id))
