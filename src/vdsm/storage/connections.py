"""Connections to storage: what an Engine asks to be mounted or linked, and what of it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vdsm.storage.kinds import StorageType

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection as it was asked for."""

    id: str
    type: StorageType
    spec: str
    vfs_type: str = ""
    options: str = ""
    protocol_version: str = ""
    timeout: int | None = None
    retrans: int | None = None


class Status(NamedTuple):
    """How one connection came out: 0, or the error's number."""

    id: str
    code: int


@dataclass(frozen=True, slots=True)
class Mounted:
    """A connection that is there."""

    path: str
    type: StorageType
    spec: str


class Connections:
    """All connections of this host."""

    def connect(self, connections: Sequence[Connection]) -> list[Status]:
        """Mount or link."""
        raise NotImplementedError

    def disconnect(self, connections: Sequence[Connection]) -> list[Status]:
        """Unmount or unlink."""
        raise NotImplementedError

    def validate(self, connections: Sequence[Connection]) -> list[Status]:
        """Check the requests, and do nothing."""
        raise NotImplementedError

    def mounts(self) -> list[Mounted]:
        """Everything of ours that is mounted or linked now."""
        raise NotImplementedError
