"""Bearer tokens: the verbs, and the store behind them.

A secret is 256 random bits, so its plain SHA-256 is all that is kept: there is nothing to guess, and a slow hash would
only serve an attacker who sends many. The store is one small file, `{"version": 1, "tokens": [...]}`, replaced whole at
each change; lookups go to memory and see a change at once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from vdsm.api.contract import Role
from vdsm.api.token import NewToken, Token
from vdsm.base.clock import now_utc
from vdsm.base.errors import AlreadyExists, Failed, NotFound, VdsmError, WrongState
from vdsm.base.persist import persist_file, read_file

log = logging.getLogger(__name__)

PREFIX: Final = "vdsm_"
MAX_TOKENS: Final = 1000
_VERSION: Final = 1
# How much of a hash finds its record; the rest is compared in constant time.
_INDEXED: Final = 8


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    role: Role
    created: datetime
    expires: datetime | None
    sha256: str

    def shown(self) -> Token:
        return Token(name=self.name, role=self.role, created=_text(self.created), expires=_until(self.expires))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    tokens: list[_Record]


class TokenService:
    """The Token verbs. Safe for use by several threads.

    Args:
        path: the store's file; its directory must exist.
        now: aware wall time in UTC: expiry is a date that people chose, so it follows the wall clock.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = now_utc) -> None:
        self._path = path
        self._now = now
        self._changing = threading.Lock()
        self._broken: VdsmError | None = None
        # Never changed in place: a reader has the old ones or the new ones.
        self._records: dict[str, _Record] = {}
        self._index: dict[bytes, _Record] = {}
        try:
            self._take(_load(path))
        except Failed as error:
            # Without its tokens the host is still useful; it only must not forget them by writing a new file.
            log.error("no token is accepted: %s", error)  # noqa: TRY400 - the message says all
            self._broken = error

    def list(self) -> list[Token]:
        """All tokens, by name."""
        self._check()
        return [self._records[name].shown() for name in sorted(self._records)]

    def create(self, name: str, role: Role = Role.VIEWER, days: int | None = None) -> NewToken:
        """Make a token.

        Raises:
            AlreadyExists: there is one of this name.
            WrongState: there are too many.
            Failed: the store cannot be read or written.
        """
        secret = PREFIX + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
        created = self._now()
        record = _Record(
            name=name,
            role=role,
            created=created,
            expires=None if days is None else created + timedelta(days=days),
            sha256=_digest(secret).hex(),
        )
        with self._changing:
            self._check()
            if name in self._records:
                raise AlreadyExists("token", name)
            if len(self._records) >= MAX_TOKENS:
                raise WrongState("create a token", f"there are {MAX_TOKENS}")
            self._save({**self._records, name: record})
        log.info("created token %s with role %s", name, role)
        shown = record.shown()
        return NewToken(name=shown.name, role=shown.role, created=shown.created, expires=shown.expires, secret=secret)

    def revoke(self, name: str) -> None:
        """Make a token worthless from now on.

        Raises:
            NotFound: there is none of this name.
            Failed: the store cannot be read or written; the token is still valid.
        """
        with self._changing:
            self._check()
            if name not in self._records:
                raise NotFound("token", name)
            self._save({other: record for other, record in self._records.items() if other != name})
        log.info("revoked token %s", name)

    def find(self, secret: str) -> Token | None:
        """The token of this secret; None when there is none, or it has expired. Reads memory only."""
        digest = _digest(secret)
        record = self._index.get(digest[:_INDEXED])
        if record is None or not hmac.compare_digest(bytes.fromhex(record.sha256), digest):
            return None
        if record.expires is not None and self._now() >= record.expires:
            return None
        return record.shown()

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _save(self, records: dict[str, _Record]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_File(_VERSION, list(records.values()))), indent=1)
        try:
            persist_file(self._path, data, mode=0o600)
        except OSError as error:
            raise Failed(f"writing {self._path}", str(error)) from error
        self._take(records)

    def _take(self, records: dict[str, _Record]) -> None:
        self._index = {bytes.fromhex(record.sha256)[:_INDEXED]: record for record in records.values()}
        self._records = records


def _load(path: Path) -> dict[str, _Record]:
    try:
        data = read_file(path)
        if data is None:
            return {}
        file = msgspec.json.decode(data, type=_File)
        if file.version != _VERSION:
            raise Failed(f"reading {path}", f"version {file.version} is not known, only {_VERSION}")
        for record in file.tokens:
            bytes.fromhex(record.sha256)
    except (OSError, ValueError, RecursionError) as error:
        raise Failed(f"reading {path}", str(error)) from error
    return {record.name: record for record in file.tokens}


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _until(moment: datetime | None) -> str | None:
    return None if moment is None else _text(moment)
