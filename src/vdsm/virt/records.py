"""What must be known of the agent's VMs even when libvirt knows them no more: a small SQLite file.

A running VM's truth is its domain. The record says that there was one, since when, and how it ended, so that after
a restart of the agent a VM that died meanwhile is reported, with its reason, and one that was Down stays listed.

    vm       one row per VM that has not been destroyed: id, name, origin of its clock, XML, exit (JSON) or null

Every write is one transaction in a write-ahead log: kill -9 loses nothing that was written. A crash of the whole
host may lose the last moments, and ends all VMs anyway. A damaged file is put aside: running VMs are found without it,
and the agent must not fail for what it says of ended ones.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vdsm.base.errors import Failed
from vdsm.base.ids import VmId
from vdsm.virt.view import Exit, ExitCode, ExitReason

log = logging.getLogger(__name__)

_VERSION: Final = 1
_DAMAGES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SCHEMA: Final = """
CREATE TABLE vm (
    vm_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    started_s REAL NOT NULL,
    xml BLOB NOT NULL,
    exit TEXT
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One VM. ``started_s`` is on the monotonic clock of the boot ``boot_id``; ``packed_xml`` as in a view."""

    vm_id: VmId
    name: str
    boot_id: str
    started_s: float
    packed_xml: bytes
    exit: Exit | None = None


class Records:
    """The store at ``path``, or in memory for a twin (None). For any thread."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._db: sqlite3.Connection
        try:
            self._open(path)
        except sqlite3.Error as error:
            if path is None or error.sqlite_errorcode not in _DAMAGES:
                raise Failed(f"opening the records of VMs ({path})", str(error)) from error
            self._begin_anew(path, error)

    def _open(self, path: Path | None) -> None:
        self._db = sqlite3.connect(
            ":memory:" if path is None else path, check_same_thread=False, isolation_level=None, timeout=5.0
        )
        try:
            if path is not None:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
            self._prepare()
        except sqlite3.Error:
            self._db.close()
            raise

    def _begin_anew(self, path: Path, damage: sqlite3.Error) -> None:
        aside = path.with_name(f"{path.name}.damaged")
        log.error("%s is damaged (%s): it is kept as %s; VMs that ended are forgotten", path, damage, aside)
        try:
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.replace(aside)
            self._open(path)
        except (OSError, sqlite3.Error) as error:
            raise Failed(f"opening the records of VMs ({path})", str(error)) from error

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={_VERSION}")
            self._db.execute("COMMIT")
        elif version != _VERSION:
            raise Failed("opening the records of VMs", f"their version is {version}, not {_VERSION}")

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            with self._lock, closing(self._db.execute(statement, values)):
                pass
        except sqlite3.Error as error:
            raise Failed("writing the records of VMs", str(error)) from error

    def put(self, record: Record) -> None:
        """Remember a VM, in place of an older record of it.

        Raises:
            Failed: the store cannot be written.
        """
        values = (
            record.vm_id,
            record.name,
            record.boot_id,
            record.started_s,
            record.packed_xml,
            _pack_exit(record.exit),
        )
        self._execute("REPLACE INTO vm (vm_id, name, boot_id, started_s, xml, exit) VALUES (?, ?, ?, ?, ?, ?)", values)

    def end(self, vm_id: VmId, how: Exit) -> None:
        """Remember how a VM ended; errors as ``put``."""
        self._execute("UPDATE vm SET exit = ? WHERE vm_id = ?", (_pack_exit(how), vm_id))

    def forget(self, vm_id: VmId) -> None:
        """Forget a VM; errors as ``put``."""
        self._execute("DELETE FROM vm WHERE vm_id = ?", (vm_id,))

    def all(self) -> list[Record]:
        """All VMs.

        Raises:
            Failed: the store cannot be read.
        """
        try:
            with self._lock:
                rows = self._db.execute("SELECT vm_id, name, boot_id, started_s, xml, exit FROM vm").fetchall()
        except sqlite3.Error as error:
            raise Failed("reading the records of VMs", str(error)) from error
        return [replace(Record(*row[:5]), exit=_unpack_exit(row[5])) for row in rows]

    def close(self) -> None:
        """Close the store."""
        with self._lock:
            self._db.close()


def _pack_exit(how: Exit | None) -> str | None:
    return None if how is None else json.dumps([int(how.code), int(how.reason), how.message])


def _unpack_exit(text: str | None) -> Exit | None:
    if text is None:
        return None
    code, reason, message = json.loads(text)
    return Exit(ExitCode(code), ExitReason(reason), str(message))
