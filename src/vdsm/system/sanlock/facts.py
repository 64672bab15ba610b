"""What sanlock says: hosts, leases, and why it refuses; and how long it is waited for."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import Enum, unique
from types import ModuleType
from typing import Final

from vdsm.base.errors import Failed

# Numbers of sanlock's own, all of them: another host, or another process of this host, has the lease.
_HELD: Final = frozenset({-212, -213, -243, -244, -245, -246, -247, errno.EAGAIN, errno.EEXIST, errno.EBUSY})
# There is no lease, or that of another name, where one was looked for.
_NO_LEASE: Final = frozenset({-223, -224, -226, -227})
_AWAY: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EPIPE, errno.ECONNRESET, errno.EBADF})


@dataclass(eq=False)
class SanlockFailed(Failed):
    """sanlock refused. ``number``: an errno, or, below -200, a number of sanlock's own."""

    name = "sanlock_failed"
    status = 503
    number: int = 0

    @property
    def held(self) -> bool:
        """Somebody else has the lease."""
        return self.number in _HELD

    @property
    def no_lease(self) -> bool:
        """There is no such lease at that place."""
        return self.number in _NO_LEASE


@unique
class HostState(Enum):
    """What sanlock has seen of a host."""

    FREE = "free"
    LIVE = "live"
    FAIL = "fail"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Host:
    """A host of a lockspace.

    Attributes:
        host_id: its id.
        generation: how often the id was taken.
        timestamp_s: when it last showed that it is alive, by its own sanlock's monotonic clock; 0 when it is free.
        io_timeout_s: what its times are multiples of.
        state: what this host thinks of it.
    """

    host_id: int
    generation: int
    timestamp_s: int
    io_timeout_s: int
    state: HostState


@dataclass(frozen=True, slots=True)
class Spot:
    """A place on storage: path, and in bytes its offset, the size of a lease's area, and the sector."""

    path: str
    offset: int
    align: int
    sector: int


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that a connection has: names, and where it is."""

    lockspace: str
    resource: str
    path: str
    offset: int


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: for what the daemon answers from memory, for what reads or writes storage, and for taking a lease.

    With its default of 10 s for one I/O, sanlock gives up an access of its own after some 40 s.
    """

    memory_s: float = 5.0
    storage_s: float = 60.0
    acquire_s: float = 60.0


def is_away(error: Exception) -> bool:
    """Whether an error says that the daemon is not there (any more)."""
    return isinstance(error, SanlockFailed) and error.number in _AWAY


def hosts_of(module: ModuleType, found: list[dict[str, int]]) -> list[Host]:
    """Hosts, as the module tells of them."""
    states = {
        module.HOST_FREE: HostState.FREE,
        module.HOST_LIVE: HostState.LIVE,
        module.HOST_FAIL: HostState.FAIL,
        module.HOST_DEAD: HostState.DEAD,
    }
    return [
        Host(
            item["host_id"],
            item["generation"],
            item["timestamp"],
            item["io_timeout"],
            states.get(item["flags"] & 0xF, HostState.UNKNOWN),
        )
        for item in found
    ]


def text_of(value: bytes | str) -> str:
    """A name, without the bytes that fill its field."""
    return os.fsdecode(value).rstrip("\0")
