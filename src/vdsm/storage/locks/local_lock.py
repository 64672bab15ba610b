"""The lock of a domain that only this host reaches (LOCALFS): a lock on the file ``dom_md/ids``, as the original's.

    host id         known in this process only, nothing is on the disk; any number will do
    SDM             an exclusive flock on ``ids``: gone with this process, however it ends
    other leases    there are none on such a domain

Hosts of the original lock the same file, so an agent of either kind keeps the other out. A flock does not expire: a
process that was stopped for hours still has it. The descriptor is not inherited, so no child keeps it by accident.

The file is touched by this process, since the lock is the process's; by a thread that can be left behind, because the
file system may not answer. While one is left behind nothing else is asked of the file, but the lock can be given back.

Source: storage format, sections 3.1 and 3.4.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from math import inf
from pathlib import Path
from typing import Final, TypeVar

from vdsm.base import threads
from vdsm.base.clock import sleep_s
from vdsm.base.errors import Busy
from vdsm.storage.clusterlock import LeaseState, Membership
from vdsm.storage.errors import HostIdFailed, InvalidParameter, LeaseFailed, LeaseHeld
from vdsm.storage.formats.leases import MAX_HOSTS, SDM, Geometry, LeaseRecord, sdm_lease
from vdsm.storage.ids import DomainId

# What the original answers for a lock that does not count how often it was taken.
_VERSION: Final = 0
# Whoever has the lock and is not this process: some host id of this very host, which nobody wrote down.
_UNKNOWN: Final = 0
# Who looks whether it is locked, locks it for a moment.
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.02
_IN_USE: Final = frozenset({errno.EAGAIN, errno.EACCES})
_DEADLINE_S: Final = 10.0

T = TypeVar("T")


class LocalLock:
    """``clusterlock.ClusterLock`` on a file.

    Args:
        domain_id: the domain.
        ids_path: the file that is locked; it must be there.
        leases_path: names the SPM's lease; never opened.
        geometry: of the domain.
        deadline_s: seconds that each look at the file may take.
    """

    def __init__(
        self,
        domain_id: DomainId,
        ids_path: str,
        leases_path: str,
        geometry: Geometry,
        *,
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        self._domain_id: Final = domain_id
        self._path: Final = ids_path
        self._sdm: Final = sdm_lease(domain_id, leases_path, geometry)
        self._deadline_s: Final = deadline_s
        self._worker: Final = threads.Pool("local-lock", 1, 0)
        self._lock = threading.Lock()
        self._host_id: int | None = None
        self._file: int | None = None

    def format(self) -> None:
        """See ClusterLock: an empty file is all that is needed."""

    def join(self, host_id: int, *, wait_s: float | None) -> None:  # noqa: ARG002 - there is nothing to wait for
        """See ClusterLock."""
        if not 1 <= host_id <= MAX_HOSTS:
            raise InvalidParameter("hostID", f"must be between 1 and {MAX_HOSTS}, is {host_id}")
        with self._lock:
            if self._host_id not in {None, host_id}:
                raise HostIdFailed(f"joining domain {self._domain_id}", f"it is joined as host {self._host_id}")
            self._host_id = host_id

    def leave(self, host_id: int) -> None:
        """See ClusterLock."""
        with self._lock:
            if self._host_id != host_id:
                return
            if self._file is not None:
                raise HostIdFailed(f"leaving domain {self._domain_id}", "its SDM lease is held")
            self._host_id = None

    def membership(self, host_id: int) -> Membership:
        """See ClusterLock."""
        with self._lock:
            return Membership.YES if self._host_id == host_id else Membership.NO

    @property
    def sdm(self) -> LeaseRecord:
        """See ClusterLock."""
        return self._sdm

    def acquire(self, lease: LeaseRecord, host_id: int, *, value: bool = False) -> None:
        """See ClusterLock."""
        self._only_sdm(lease)
        if value:
            raise LeaseFailed(f"taking {lease.resource}", "leases of a local domain have no values")
        with self._lock:
            if self._host_id != host_id:
                raise LeaseFailed(f"taking {lease.resource}", f"domain {self._domain_id} is not joined as {host_id}")
            if self._file is not None:
                raise LeaseHeld(lease.resource, self._domain_id, f"host {host_id}, this process")
            for attempt in range(_ATTEMPTS):
                file = self._try(fcntl.LOCK_EX)
                if file is not None:
                    self._file = file
                    return
                if attempt + 1 < _ATTEMPTS:
                    sleep_s(_PAUSE_S)
            raise LeaseHeld(lease.resource, self._domain_id, "another process of this host")

    def release(self, lease: LeaseRecord) -> None:
        """See ClusterLock."""
        self._only_sdm(lease)
        with self._lock:
            file, self._file = self._file, None
        if file is None:
            return
        unlocked = threading.Event()
        # The end of a file is told to its file system, and waits for that; the lock is the kernel's.
        threads.start("local-unlock", _let_go, file, unlocked)
        if not unlocked.wait(self._deadline_s):
            raise LeaseFailed(f"unlocking {self._path}", f"no answer within {self._deadline_s:g} s")

    def holds(self, lease: LeaseRecord) -> bool:
        """See ClusterLock. The kernel keeps the lock; a file that was replaced is not the one that others lock."""
        self._only_sdm(lease)
        with self._lock:
            if self._file is None:
                return False
            try:
                return self._soon(_same, self._file, self._path)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise LeaseFailed(f"looking at {self._path}", str(error)) from error

    def valid_for_s(self, host_id: int) -> float:
        """See ClusterLock."""
        with self._lock:
            if self._host_id != host_id:
                raise LeaseFailed("asking for a lease's time", f"domain {self._domain_id} is not joined as {host_id}")
        return inf

    def inspect(self, lease: LeaseRecord) -> LeaseState:
        """See ClusterLock. Of another process only that it has the lock can be known: its host id is said to be 0."""
        self._only_sdm(lease)
        with self._lock:
            if self._file is not None and self._host_id is not None:
                return LeaseState((self._host_id,), _VERSION)
            file = self._try(fcntl.LOCK_SH)
            if file is None:
                return LeaseState((_UNKNOWN,), _VERSION)
            self._soon(os.close, file)
            return LeaseState()

    def read_value(self, lease: LeaseRecord) -> bytes:
        """See ClusterLock."""
        raise LeaseFailed(f"reading the value of {lease.resource}", "leases of a local domain have no values")

    def write_value(self, lease: LeaseRecord, value: bytes) -> None:  # noqa: ARG002 - it is refused, whatever it is
        """See ClusterLock."""
        raise LeaseFailed(f"writing the value of {lease.resource}", "leases of a local domain have no values")

    def _try(self, how: int) -> int | None:
        """The file, locked; None when somebody else has it."""
        try:
            return self._soon(_open_locked, self._path, how, late=_close_late)
        except OSError as error:
            raise LeaseFailed(f"locking {self._path}", error.strerror or str(error)) from error

    def _soon(
        self, call: Callable[..., T], *arguments: object, late: Callable[[Future[T]], None] = lambda _: None
    ) -> T:
        """Have something done with the file, under the deadline; ``late`` gets what comes after it."""
        try:
            done = self._worker.submit(call, *arguments)
        except Busy:
            raise LeaseFailed(f"looking at {self._path}", "an earlier look has had no answer yet") from None
        try:
            return done.result(self._deadline_s)
        except Late:
            done.add_done_callback(late)
            raise LeaseFailed(f"looking at {self._path}", f"no answer within {self._deadline_s:g} s") from None

    def _only_sdm(self, lease: LeaseRecord) -> None:
        if lease.resource != SDM or lease.lockspace != self._domain_id:
            raise LeaseFailed(f"lease {lease.resource}", f"domain {self._domain_id} is local: it has SDM only")


def _open_locked(path: str, how: int) -> int | None:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in _IN_USE:
            return None
        raise
    return file


def _close_late(opened: Future[int | None]) -> None:
    """Nobody waits for this file any more: give its lock back."""
    if opened.exception() is None and (file := opened.result()) is not None:
        os.close(file)


def _same(file: int, path: str) -> bool:
    return os.path.samestat(os.fstat(file), Path(path).stat())


def _let_go(file: int, unlocked: threading.Event) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)
    unlocked.set()
    os.close(file)
