"""The pool's own data in its master domain: ``master/``, which only the SPM touches.

    master/vms/         OVF texts of long ago
    master/tasks/       tasks of hosts of the original (``foreign_tasks``)
    master/operations/  the journal of our operations; hosts of the original just copy it with the rest

Source: storage format, sections 1.4, 3.4 and 3.5.
"""

from __future__ import annotations

import glob
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from vdsm.operations.journal import Damaged, FileJournal, JournalStore
from vdsm.operations.records import Record
from vdsm.storage.access import FileAccess, FileKind
from vdsm.storage.domains.domain import Domain
from vdsm.storage.files.files import told
from vdsm.storage.formats import tree

OPERATIONS: Final = "operations"
_PARTS: Final = (tree.VMS, tree.TASKS, OPERATIONS)


def prepare(domain: Domain) -> None:
    """Make what is missing of a master's directories; changes nothing that is there.

    Raises:
        NoSpace, StorageFailed: it cannot be made.
    """
    with told(f"preparing {domain.master_path}"):
        for path in (domain.master_path, *(f"{domain.master_path}/{part}" for part in _PARTS)):
            with suppress(FileExistsError):
                domain.files.mkdir(path, mode=tree.DIRECTORY_MODE)


def wipe(domain: Domain) -> None:
    """Remove all that a master has of its pool; the directories stay. Nothing if the domain never was a master."""
    with told(f"clearing {domain.master_path}"):
        for part in _PARTS:
            _clear(domain.files, f"{domain.master_path}/{part}")


def copy(old: Domain, new: Domain) -> None:
    """Copy what hosts of the original have in a master; our journal copies itself (``MasterJournal``)."""
    prepare(new)
    for part in (tree.VMS, tree.TASKS):
        _copy(old, new, part)


def journal_of(domain: Domain) -> FileJournal:
    """The journal in a master's directory, which must be there."""
    return FileJournal(domain.files, f"{domain.master_path}/{OPERATIONS}")


class MasterJournal:
    """``JournalStore`` on the master domain, which can move to another one while operations go on.

    From ``copy_to`` until ``move`` or ``stay`` each record is written to both, so that either domain may become the
    master after a crash: at worst one write of difference, which is what every step can bear.

    Args:
        store: where records are.
        fence: called before each write; raises when this host may not write any more.
    """

    def __init__(self, store: JournalStore, fence: Callable[[], None]) -> None:
        self._lock: Final = threading.Lock()
        self._stores: list[JournalStore] = [store]
        self._fence: Final = fence

    def load(self) -> tuple[list[Record], list[Damaged]]:
        """See ``JournalStore.load``."""
        return self._stores[0].load()

    def write(self, record: Record) -> None:
        """See ``JournalStore.write``."""
        self._fence()
        with self._lock:
            for store in self._stores:
                store.write(record)

    def remove(self, operation_id: str) -> None:
        """See ``JournalStore.remove``."""
        self._fence()
        with self._lock:
            for store in self._stores:
                store.remove(operation_id)

    def copy_to(self, store: JournalStore) -> None:
        """Copy all records to another store, which is empty, and keep both from now on."""
        with self._lock:
            records, _ = self._stores[0].load()
            for record in records:
                store.write(record)
            self._stores = [self._stores[0], store]

    def move(self) -> None:
        """Keep only the store that was copied to, if there is one."""
        with self._lock:
            self._stores = self._stores[-1:]

    def stay(self) -> None:
        """Keep only the store that was copied from."""
        with self._lock:
            self._stores = self._stores[:1]


def _clear(files: FileAccess, directory: str) -> None:
    """Remove files and directories two deep; what is deeper is nobody's that we know, and keeps its parents."""
    try:
        entries = files.scan(directory)
    except FileNotFoundError:
        return
    for entry in entries:
        path = f"{directory}/{entry.name}"
        with suppress(FileNotFoundError):
            if entry.stat.kind is not FileKind.DIRECTORY:
                files.unlink(path)
                continue
            for name in files.listdir(path):
                files.unlink(f"{path}/{name}")
            files.rmdir(path)


def _copy(old: Domain, new: Domain, part: str) -> None:
    source, target = f"{old.master_path}/{part}", f"{new.master_path}/{part}"
    with told(f"copying {source}"):
        paths = old.files.glob(f"{glob.escape(source)}/*/*")
        for directory in sorted({path.rsplit("/", 2)[1] for path in paths}):
            with suppress(FileExistsError):
                new.files.mkdir(f"{target}/{directory}", mode=tree.DIRECTORY_MODE)
        for path in paths:
            content = old.files.read(path)
            new.files.replace(target + path.removeprefix(source), content, mode=tree.METADATA_MODE)
