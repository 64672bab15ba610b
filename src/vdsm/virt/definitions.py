"""The definitions of a stand-alone host: what VMs it remembers, in one SQLite file.

    definitions: vm_id (key) | name (unique) | autostart | spec (JSON of format 1)

The description is kept as versioned JSON, so that it may grow without a change of the table. A row that cannot be read
is reported and in nobody's way: the others are listed, and it can be deleted by its name or id.

Each call opens the file for itself: definitions are asked for rarely, and so any thread may call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from vdsm.base.errors import AlreadyExists, Failed, NotFound, VdsmError
from vdsm.base.ids import VmId
from vdsm.virt.spec import VmSpec

log = logging.getLogger(__name__)

SCHEMA: Final = 1  # the table's version, in SQLite's user_version
FORMAT: Final = 1  # the description's
_WAIT_S: Final = 5.0  # for another writer

_TABLE: Final = """
CREATE TABLE definitions (
    vm_id TEXT PRIMARY KEY NOT NULL,
    name TEXT UNIQUE NOT NULL,
    autostart INTEGER NOT NULL CHECK (autostart IN (0, 1)),
    spec TEXT NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Definition:
    """One VM that the host remembers."""

    name: str
    vm_id: VmId
    spec: VmSpec
    autostart: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that cannot be read, and why."""

    name: str
    vm_id: str
    reason: str


class _Stored(msgspec.Struct, frozen=True):
    format: int
    vm: VmSpec


class _Format(msgspec.Struct, frozen=True):
    format: int


class Definitions:
    """The store; every change is on the disk when its call returns."""

    def __init__(self, path: Path) -> None:
        """Keep definitions at ``path``, which is made at the first use."""
        self._path = path

    def list(self) -> list[Definition]:
        """All that can be read, by name; broken ones are logged.

        Raises:
            Failed: the store as a whole cannot be read.
        """
        good, broken = self.survey()
        for row in broken:
            log.error("the definition of %s (%s) cannot be read: %s", row.name, row.vm_id, row.reason)
        return [*good]

    def survey(self) -> tuple[tuple[Definition, ...], tuple[Broken, ...]]:
        """All that can be read and all that cannot, by name.

        Raises:
            Failed: the store as a whole cannot be read.
        """
        good, broken = [], []
        with self._open() as database:
            for row in database.execute("SELECT name, vm_id, autostart, spec FROM definitions ORDER BY name"):
                try:
                    good.append(_read(row))
                except ValueError as error:
                    broken.append(Broken(name=str(row[0]), vm_id=str(row[1]), reason=str(error)))
        return tuple(good), tuple(broken)

    def get(self, ident: str) -> Definition:
        """One definition by its VM's name or id.

        Raises:
            NotFound: there is none.
            Failed: it is there and cannot be read.
        """
        with self._open() as database:
            return _get(database, ident)

    def add(self, definition: Definition) -> None:
        """Remember a VM.

        Raises:
            AlreadyExists: there is one of this name or id.
            Failed: the store cannot be written.
        """
        with self._open(write=True) as database:
            try:
                database.execute(
                    "INSERT INTO definitions (name, vm_id, autostart, spec) VALUES (?, ?, ?, ?)",
                    (definition.name, definition.vm_id, int(definition.autostart), _text(definition.spec)),
                )
            except sqlite3.IntegrityError as error:
                by_id = database.execute("SELECT 1 FROM definitions WHERE vm_id = ?", (definition.vm_id,)).fetchone()
                raise AlreadyExists("definition", definition.vm_id if by_id else definition.name) from error

    def replace(self, definition: Definition) -> None:
        """Change what is remembered of a VM, its name included; the id says which.

        Raises:
            NotFound: there is none of this id.
            AlreadyExists: another VM has the name.
            Failed: the store cannot be written.
        """
        with self._open(write=True) as database:
            try:
                done = database.execute(
                    "UPDATE definitions SET name = ?, autostart = ?, spec = ? WHERE vm_id = ?",
                    (definition.name, int(definition.autostart), _text(definition.spec), definition.vm_id),
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists("definition", definition.name) from error
            if not done.rowcount:
                raise NotFound("definition", definition.vm_id)

    def set_autostart(self, ident: str, *, enabled: bool) -> Definition:
        """Start a VM when the agent starts, or not; returns the definition as it is then.

        Raises:
            NotFound: there is none of this name or id.
            Failed: the store cannot be read or written.
        """
        with self._open(write=True) as database:
            definition = _get(database, ident)
            database.execute("UPDATE definitions SET autostart = ? WHERE vm_id = ?", (int(enabled), definition.vm_id))
        return replace(definition, autostart=enabled)

    def delete(self, ident: str) -> None:
        """Forget a VM, by its name or id; also one that cannot be read.

        Raises:
            NotFound: there is none.
            Failed: the store cannot be written.
        """
        with self._open(write=True) as database:
            if not database.execute("DELETE FROM definitions WHERE vm_id = ? OR name = ?", (ident, ident)).rowcount:
                raise NotFound("definition", ident)

    @contextlib.contextmanager
    def _open(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, undone by any error. Readers wait for nobody."""
        try:
            with contextlib.closing(self._connect()) as database:
                if _version(database) == 0:
                    _create(database)
                with database:
                    database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                    _check_schema(database)
                    yield database
        except VdsmError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise Failed(f"the store of definitions {self._path}", str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        # SQLite would make the file with the process's mask; a kernel command line may hold secrets.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            database.close()
            raise
        return database


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _create(database: sqlite3.Connection) -> None:
    with database:
        database.execute("BEGIN IMMEDIATE")
        if _version(database) == 0:  # or else another one was faster
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version = {SCHEMA}")


def _check_schema(database: sqlite3.Connection) -> None:
    if (version := _version(database)) != SCHEMA:
        raise Failed("the store of definitions", f"its version is {version}, this agent knows {SCHEMA}")


def _get(database: sqlite3.Connection, ident: str) -> Definition:
    row = database.execute(
        "SELECT name, vm_id, autostart, spec FROM definitions WHERE vm_id = ? OR name = ?", (ident, ident)
    ).fetchone()
    if row is None:
        raise NotFound("definition", ident)
    try:
        return _read(row)
    except ValueError as error:
        raise Failed(f"reading the definition of {ident}", str(error)) from error


def _text(spec: VmSpec) -> str:
    return msgspec.json.encode(_Stored(format=FORMAT, vm=spec)).decode()


def _read(row: tuple[str, str, int, str]) -> Definition:
    """Read a row.

    Raises:
        ValueError: the description is damaged, of another version or another VM's.
    """
    name, vm_id, autostart, text = row
    # The version first: another version's description need not fit this one's types.
    found = msgspec.json.decode(text, type=_Format).format
    if found != FORMAT:
        raise ValueError(f"its format is {found}, this agent knows {FORMAT}")
    spec = msgspec.json.decode(text, type=_Stored).vm
    if (spec.name, spec.vm_id) != (name, vm_id):
        raise ValueError(f"it describes another VM, {spec.name} ({spec.vm_id})")
    return Definition(name=name, vm_id=VmId(vm_id), spec=spec, autostart=bool(autostart))
