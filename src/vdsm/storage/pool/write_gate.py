"""What lets the SPM write: only while its lease is certain; shut for good once it is known to be lost.

    gate = WriteGate(lock, lock.sdm, host_id, leader)      after the lease was taken
    gate.open()
    gate.check()                                           before each write; what it raises is why it is not made

``check`` asks three things, the cheap ones first:

    shut already                     somebody found out before
    the time is over                 the keeper's last renewal is so long ago that others may soon take the lease;
                                     no question to anybody as long as there is time left. Renewed late, there is again
    the storage names another owner  one sector of the lease is read: also right where clocks stood still, as in a
                                     virtual machine that was paused

It is asked at the beginning of each step of an operation, and again (``guard``) before each change of a file in it.
``watchdog`` has the whole design.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from typing import Final, NoReturn

from vdsm.base.clock import boottime_s
from vdsm.storage.backend import Area
from vdsm.storage.clusterlock import ClusterLock
from vdsm.storage.domains.domain import Domain
from vdsm.storage.errors import LeaseFailed, LeaseLost
from vdsm.storage.formats.leases import Leader, LeaseRecord, decode_leader
from vdsm.storage.locks.sanlock_lock import SanlockLock

ReadLeader = Callable[[], Leader]


class WriteGate:
    """See the module; may be used by many threads at once.

    Args:
        lock: of the domain that has the lease.
        lease: what is held.
        host_id: under which this host has joined.
        leader: reads the lease's first sector from the storage; None where only this host reaches the domain.
        clock: seconds; must go on while this process, or the machine, is stopped.
    """

    def __init__(
        self,
        lock: ClusterLock,
        lease: LeaseRecord,
        host_id: int,
        leader: ReadLeader | None = None,
        *,
        clock: Callable[[], float] = boottime_s,
    ) -> None:
        self._lock: Final = lock
        self._lease: Final = lease
        self._host_id: Final = host_id
        self._leader: Final = leader
        self._clock: Final = clock
        self._what: Final = f"writing under lease {lease.resource} of domain {lease.lockspace}"
        self._mutex = threading.Lock()
        self._until_s = -inf
        self._term: tuple[int, int] | None = None
        self._shut: str | None = "it was not opened"

    @property
    def overdue_s(self) -> float:
        """Seconds since the time that the keeper has confirmed was over; below 0 while it is not."""
        return self._clock() - self._until_s

    def open(self) -> None:
        """Begin: the lease has just been taken.

        Raises:
            LeaseLost: it is not held.
            LeaseFailed: the keeper does not answer.
            VdsmError: the storage does not.
        """
        self._shut = None
        try:
            self.confirm()
            if self._leader is not None:
                found = self._leader()
                self._term = (found.generation, found.version)
                self._compare(found)
        except BaseException:
            self.shut("it could not be opened")
            raise

    def shut(self, reason: str) -> None:
        """Let nothing be written any more; the first reason stays. Also before the lease is given back."""
        with self._mutex:
            self._shut = self._shut or reason

    def confirm(self) -> None:
        """Ask the keeper, and move the time on.

        Raises:
            LeaseLost: the lease is not held any more; the gate is shut.
            LeaseFailed: the time is over; or the keeper does not answer, what it said before holds until its time is.
        """
        began = self._clock()
        if not self._lock.holds(self._lease):
            self._lose("the lock's keeper says that this process does not hold it, or is gone")
        left = self._lock.valid_for_s(self._host_id)
        with self._mutex:
            self._until_s = max(self._until_s, began + left)
        if left <= 0:
            raise LeaseFailed(self._what, f"this host should have renewed its id {-left:.1f} s ago")

    def check(self) -> None:
        """Refuse what must not be written; see the module.

        Raises:
            LeaseLost: the lease is lost; the gate is shut.
            LeaseFailed: the time is over, or the keeper does not answer; it may be better later.
            VdsmError: the storage does not answer.
        """
        self._check_time()
        if self._leader is not None:
            self._compare(self._leader())
            self._check_time()  # reading may have taken long

    def _check_time(self) -> None:
        if self._shut is not None:
            raise LeaseLost(self._what, self._shut)
        if self.overdue_s >= 0:
            self.confirm()

    def _compare(self, found: Leader) -> None:
        mine = (self._lease.lockspace, self._lease.resource, self._host_id, self._term)
        if mine != (found.lockspace, found.resource, found.owner, (found.generation, found.version)):
            self._lose(f"the storage says that host {found.owner} has it, version {found.version}")
        if not found.taken:
            self._lose("the storage says that it is free")

    def _lose(self, reason: str) -> NoReturn:
        self.shut(reason)
        raise LeaseLost(self._what, self._shut or reason)


def spm_gate(domain: Domain, host_id: int) -> WriteGate:
    """The gate of the SPM whose lease is on this (the master) domain; to be opened once the lease is taken."""
    lock = domain.lock
    leader = None
    if isinstance(lock, SanlockLock):

        def leader() -> Leader:
            offset, size = lock.sdm.offset, domain.geometry.block_size
            return decode_leader(domain.backend.area(Area.LEASES).read(offset, size), lock.sdm.path)

    return WriteGate(lock, lock.sdm, host_id, leader)
