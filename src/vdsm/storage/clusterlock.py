"""The door to what keeps hosts apart on one domain: the host's id in the lockspace, and leases.

Implemented by sanlock (``sanlock_lock``), by a file lock for domains that only one host reaches (``local_lock``), and
in memory (``lock_twin``). One contract test runs on all.

    join(host_id)    the host shows that it is alive; must come before any lease is taken
    acquire(lease)   exclusive, for this process; sanlock ends the process when the storage is lost
    SDM              the lease of the storage pool's manager (SPM)

A lease belongs to a host id and its generation, so whoever died and came back does not hold it any more.

Source: storage format, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Protocol

from vdsm.storage.formats.leases import LeaseRecord


@unique
class Membership(Enum):
    """Whether the host shows under an id that it is alive."""

    NO = "no"
    JOINING = "joining"
    YES = "yes"


@dataclass(frozen=True, slots=True)
class LeaseState:
    """Who has a lease.

    Attributes:
        owners: host ids, of hosts that are alive or may be; empty when it is free.
        version: how often it was taken; None when nobody has it.
    """

    owners: tuple[int, ...] = ()
    version: int | None = None


class ClusterLock(Protocol):
    """The locks of one domain; may be used by many threads at once."""

    def format(self) -> None:
        """Write an empty lockspace and a free SDM lease: once, when the domain is made.

        Raises:
            LeaseFailed: it could not be written.
        """

    def join(self, host_id: int, *, wait_s: float | None) -> None:
        """Show that this host is alive under the id; twice is once.

        Args:
            host_id: 1 to 2000.
            wait_s: seconds until it must be done; None only begins.

        Raises:
            HostIdFailed: another host has the id, or it took too long, or the storage does not answer.
        """

    def leave(self, host_id: int) -> None:
        """Stop showing it; nothing if the host has not joined.

        Raises:
            HostIdFailed: leases are still held, or the storage does not answer.
        """

    def membership(self, host_id: int) -> Membership:
        """Whether the host has joined under the id."""

    @property
    def sdm(self) -> LeaseRecord:
        """The SPM's lease."""

    def acquire(self, lease: LeaseRecord, host_id: int, *, value: bool = False) -> None:
        """Take a lease for this process; at once or not at all.

        Args:
            lease: which.
            host_id: under which the host has joined.
            value: whether its value will be read or written.

        Raises:
            LeaseHeld: another host or process has it.
            LeaseFailed: the host has not joined, or the storage does not answer.
        """

    def release(self, lease: LeaseRecord) -> None:
        """Give a lease back; nothing if this process does not have it.

        Raises:
            LeaseFailed: it may still be held.
        """

    def holds(self, lease: LeaseRecord) -> bool:
        """Whether this process has the lease, as the lock's keeper (not this object) knows it.

        Raises:
            LeaseFailed: the keeper does not answer.
        """

    def valid_for_s(self, host_id: int) -> float:
        """Seconds for which no other host can take a lease of this host, even if nothing of it moves from now on.

        Counted from before the call; not above 0 when they may be taken already, infinite where no other host reaches
        the domain. What writes under a lease stops when they are over (``write_gate``).

        Raises:
            LeaseFailed: the host has not joined, or the keeper does not answer.
        """

    def inspect(self, lease: LeaseRecord) -> LeaseState:
        """Who has a lease.

        Raises:
            LeaseFailed: it cannot be read, or is no such lease.
        """

    def read_value(self, lease: LeaseRecord) -> bytes:
        """The value of a lease that was taken with ``value``: 512 bytes."""

    def write_value(self, lease: LeaseRecord, value: bytes) -> None:
        """Set the value of a lease that was taken with ``value``; at most 512 bytes."""
