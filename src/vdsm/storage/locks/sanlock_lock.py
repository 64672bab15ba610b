"""The locks of shared domains, by sanlock, as hosts of the original take them.

    SanlockLeases     of this process: formats lease areas (``backend.LeaseWriter``), has one SanlockLock per domain
    SanlockLock       ``clusterlock.ClusterLock`` of one domain

Every lease is taken on a connection of its own to sanlock's daemon. So a domain whose storage hangs keeps nobody else
from taking or giving back anything, and closing the connection gives the lease back whatever else goes wrong. The
daemon kills this process when it cannot keep one of its leases; and when the process ends, in whatever way, they are
free at once.

A lease whose owner may be alive is refused at once (``LeaseHeld``): sanlock itself would wait for minutes for a host
that is silent. It can be had as soon as this host's sanlock says that the owner is dead: 8 io_timeouts and 60 s after
its last sign of life, seen by a host that has been in the lockspace for so long.

Source: storage format, sections 3.1, 3.2 and 3.8.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from vdsm.base.clock import monotonic_s, sleep_s
from vdsm.base.errors import Busy, Unfinished
from vdsm.storage.clusterlock import LeaseState, Membership
from vdsm.storage.errors import HostIdFailed, InvalidParameter, LeaseFailed, LeaseHeld
from vdsm.storage.formats.leases import VALUE_SIZE, Geometry, LeaseRecord, host_sector_offset, sdm_lease
from vdsm.storage.ids import DomainId
from vdsm.system.sanlock.connection import Connection
from vdsm.system.sanlock.daemon import Daemon
from vdsm.system.sanlock.facts import Host, HostState, SanlockFailed, Spot, is_away

# A host that has not renewed its id for so many io_timeouts is ended by its own sanlock; others wait 60 s more.
_RENEWAL_FAILS: Final = 8
# What a host that has just joined has at least: with its first renewal, two of them later, it looks at all hosts. If
# that never succeed, sanlock gives the lockspace up, and this adds less than the others still wait.
_JUST_JOINED: Final = 3
_POLL_S: Final = 0.2
# Owners of these states have nothing any more.
_GONE: Final = frozenset({HostState.DEAD, HostState.FREE})


@dataclass(frozen=True, slots=True)
class SanlockSettings:
    """How sanlock is used.

    Attributes:
        io_timeout_s: the same on all hosts: all times of sanlock are multiples of it.
        clock_rate: how much faster than this machine's the daemon's clock runs: 1, but where failures are tried out.
    """

    io_timeout_s: int = 10
    clock_rate: float = 1.0


class SanlockLeases:
    """What this process has to do with sanlock; may be used by many threads at once."""

    def __init__(self, daemon: Daemon, settings: SanlockSettings | None = None) -> None:
        self._daemon: Final = daemon
        self._settings: Final = settings or SanlockSettings()
        self._lock = threading.Lock()
        self._locks: dict[tuple[DomainId, str], SanlockLock] = {}

    def of(self, domain_id: DomainId, ids_path: str, leases_path: str, geometry: Geometry) -> SanlockLock:
        """The lock of a domain: the same one for the same domain and path, as it knows what this process holds."""
        with self._lock:
            found = self._locks.get((domain_id, ids_path))
            if found is None or found.geometry != geometry:
                found = SanlockLock(self._daemon, self._settings, domain_id, (ids_path, leases_path), geometry)
                self._locks[domain_id, ids_path] = found
            return found

    def write_lockspace(self, lockspace: LeaseRecord) -> None:
        """See backend.LeaseWriter.

        Raises:
            LeaseFailed: it could not be written.
        """
        with _told(f"formatting the lockspace of domain {lockspace.lockspace}"):
            self._daemon.write_lockspace(lockspace.lockspace, _spot(lockspace), self._settings.io_timeout_s)

    def write_resource(self, resource: LeaseRecord) -> None:
        """See backend.LeaseWriter. Empty names clear the place.

        Raises:
            LeaseFailed: it could not be written.
        """
        with _told(f"formatting lease {resource.resource} of domain {resource.lockspace}"):
            self._daemon.write_resource(resource.lockspace, resource.resource, _spot(resource))

    def read_names(self, resource: LeaseRecord) -> tuple[str, str] | None:
        """The lockspace and the resource whose lease is at the record's place; None when there is none.

        Raises:
            LeaseFailed: it could not be read.
        """
        with _told(f"reading the lease at {resource.offset} in {resource.path}"):
            try:
                lockspace, name, _ = self._daemon.read_resource(_spot(resource))
            except SanlockFailed as error:
                if error.no_lease:
                    return None
                raise
        return (lockspace, name) if lockspace or name else None


class SanlockLock:
    """See the module; made by SanlockLeases."""

    def __init__(
        self,
        daemon: Daemon,
        settings: SanlockSettings,
        domain_id: DomainId,
        paths: tuple[str, str],
        geometry: Geometry,
    ) -> None:
        ids_path, leases_path = paths
        self.geometry: Final = geometry
        self._daemon: Final = daemon
        self._settings: Final = settings
        self._domain_id: Final = domain_id
        self._ids: Final = Spot(ids_path, 0, geometry.alignment, geometry.block_size)
        self._sdm: Final = sdm_lease(domain_id, leases_path, geometry)
        self._lock = threading.Lock()
        # None: it is being taken.
        self._held: dict[LeaseRecord, Connection | None] = {}

    def format(self) -> None:
        """See ClusterLock."""
        with _told(f"formatting the leases of domain {self._domain_id}"):
            self._daemon.write_lockspace(self._domain_id, self._ids, self._settings.io_timeout_s)
            self._daemon.write_resource(self._domain_id, self._sdm.resource, _spot(self._sdm))

    def join(self, host_id: int, *, wait_s: float | None) -> None:
        """See ClusterLock. Joining anew takes some two io_timeouts."""
        host_sector_offset(host_id, self.geometry)  # refuses an id that has no place
        what = f"joining domain {self._domain_id} as host {host_id}"
        with _told(what, HostIdFailed):
            self._daemon.add_lockspace(self._domain_id, host_id, self._ids, self._settings.io_timeout_s)
            if wait_s is None:
                return
            until = monotonic_s() + wait_s
            while (inside := self._inside(host_id)) is not True:
                if inside is False:
                    raise HostIdFailed(what, "another host has the id, or the storage does not answer")
                if monotonic_s() >= until:
                    raise HostIdFailed(what, f"not done within {wait_s:g} s")
                sleep_s(_POLL_S)

    def leave(self, host_id: int) -> None:
        """See ClusterLock."""
        what = f"leaving domain {self._domain_id} as host {host_id}"
        try:
            with _told(what, HostIdFailed):
                self._daemon.remove_lockspace(self._domain_id, host_id, self._ids)
        except HostIdFailed as error:
            if isinstance(error.__cause__, SanlockFailed) and error.__cause__.number == errno.EBUSY:
                raise HostIdFailed(what, "leases are still held") from error
            raise

    def membership(self, host_id: int) -> Membership:
        """See ClusterLock.

        Raises:
            HostIdFailed: sanlock does not answer.
        """
        with _told(f"asking for domain {self._domain_id}", HostIdFailed):
            inside = self._inside(host_id)
        return {True: Membership.YES, False: Membership.NO, None: Membership.JOINING}[inside]

    @property
    def sdm(self) -> LeaseRecord:
        """See ClusterLock."""
        return self._sdm

    def acquire(self, lease: LeaseRecord, host_id: int, *, value: bool = False) -> None:
        """See ClusterLock."""
        what = f"taking lease {lease.resource} of domain {self._domain_id}"
        with self._lock:
            self._forget_lost(lease)
            if lease in self._held:
                raise LeaseHeld(lease.resource, self._domain_id, f"host {host_id}, this process")
            self._held[lease] = None
        connection: Connection | None = None
        try:
            with _told(what):
                self._check_free(lease, host_id, what)
                connection = self._connected(lease, value=value)
        finally:
            with self._lock:
                if connection is None:
                    del self._held[lease]
                else:
                    self._held[lease] = connection

    def release(self, lease: LeaseRecord) -> None:
        """See ClusterLock. Whatever sanlock answers, it is free once the connection is closed and noticed."""
        with self._lock:
            connection = self._held.get(lease)
        if connection is None:
            return
        with _told(f"giving lease {lease.resource} of domain {self._domain_id} back"):
            connection.release(lease.lockspace, lease.resource, _spot(lease))
        with self._lock:
            self._held.pop(lease, None)
        connection.close()

    def holds(self, lease: LeaseRecord) -> bool:
        """See ClusterLock."""
        with self._lock:
            connection = self._held.get(lease)
        if connection is None or not connection.alive:
            return False
        with _told(f"asking for lease {lease.resource} of domain {self._domain_id}"):
            try:
                found = connection.held()
            except SanlockFailed as error:
                if is_away(error):
                    return False
                raise
        wanted = (lease.lockspace, lease.resource, lease.path, lease.offset)
        return any((one.lockspace, one.resource, one.path, one.offset) == wanted for one in found)

    def valid_for_s(self, host_id: int) -> float:
        """See ClusterLock. From the host's last renewal, by the daemon's own account of it."""
        rate = self._settings.clock_rate
        with _told(f"asking for host {host_id} of domain {self._domain_id}"):
            now_s = monotonic_s() * rate
            try:
                mine = self._daemon.hosts(self._domain_id, host_id)
            except SanlockFailed as error:
                if error.number == errno.EAGAIN:
                    return _JUST_JOINED * self._settings.io_timeout_s / rate
                raise
        if not mine or not mine[0].timestamp_s:
            raise LeaseFailed(f"asking for host {host_id}", f"it has not joined domain {self._domain_id}")
        return (mine[0].timestamp_s + _RENEWAL_FAILS * mine[0].io_timeout_s - now_s) / rate

    def inspect(self, lease: LeaseRecord) -> LeaseState:
        """See ClusterLock."""
        with _told(f"looking at lease {lease.resource} of domain {self._domain_id}"):
            lockspace, name, version = self._daemon.read_resource(_spot(lease))
            if (lockspace, name) != (lease.lockspace, lease.resource):
                raise LeaseFailed(f"looking at lease {lease.resource}", f"{name} of {lockspace} is in its place")
            owners = self._daemon.read_owners(lease.lockspace, lease.resource, _spot(lease))
            if not owners:
                return LeaseState()
            return LeaseState(tuple(owner.host_id for owner in owners if self._lives(owner)), version)

    def read_value(self, lease: LeaseRecord) -> bytes:
        """See ClusterLock.

        Raises:
            LeaseFailed: it was not taken with its value.
        """
        with _told(f"reading the value of lease {lease.resource}"):
            return self._daemon.read_value(lease.lockspace, lease.resource, _spot(lease), VALUE_SIZE)

    def write_value(self, lease: LeaseRecord, value: bytes) -> None:
        """See ClusterLock. It is on the storage once the lease has been released.

        Raises:
            InvalidParameter: it is longer than 512 bytes.
            LeaseFailed: it was not taken with its value.
        """
        if len(value) > VALUE_SIZE:
            raise InvalidParameter("value", f"must fit in {VALUE_SIZE} bytes, takes {len(value)}")
        with _told(f"writing the value of lease {lease.resource}"):
            self._daemon.write_value(lease.lockspace, lease.resource, _spot(lease), value.ljust(VALUE_SIZE, b"\0"))

    def _connected(self, lease: LeaseRecord, *, value: bool) -> Connection:
        """A new connection that has the lease."""
        connection = self._daemon.register()
        try:
            connection.acquire(lease.lockspace, lease.resource, _spot(lease), value=value)
        except SanlockFailed as error:
            if error.held:
                raise LeaseHeld(lease.resource, self._domain_id, "another host or process") from error
            raise
        return connection

    def _check_free(self, lease: LeaseRecord, host_id: int, what: str) -> None:
        if self._inside(host_id) is not True:
            raise LeaseFailed(what, f"the domain is not joined as host {host_id}")
        owners = [owner for owner in self.inspect(lease).owners if owner != host_id]
        if owners:
            raise LeaseHeld(lease.resource, self._domain_id, f"host {owners[0]}")

    def _lives(self, owner: Host) -> bool:
        """Whether the owner that the storage names may still write."""
        try:
            seen = self._daemon.hosts(self._domain_id, owner.host_id)
        except SanlockFailed as error:
            if error.number == errno.EAGAIN:  # sanlock has just joined and cannot tell yet
                return True
            raise
        if not seen:
            return False
        return seen[0].generation == owner.generation and seen[0].state not in _GONE

    def _inside(self, host_id: int) -> bool | None:
        return self._daemon.in_lockspace(self._domain_id, host_id, self._ids)

    def _forget_lost(self, lease: LeaseRecord) -> None:
        """A connection that the daemon has ended holds nothing."""
        connection = self._held.get(lease)
        if connection is not None and not connection.alive:
            connection.close()
            del self._held[lease]


@contextmanager
def _told(what: str, kind: type[LeaseFailed | HostIdFailed] = LeaseFailed) -> Iterator[None]:
    """Turn what sanlock says, or that it says nothing, into the repository's errors.

    Raises:
        LeaseFailed, HostIdFailed: as ``kind`` says.
    """
    try:
        yield
    except SanlockFailed as error:
        raise kind(what, f"sanlock: {error.reason} ({error.number})") from error
    except (Unfinished, Busy) as error:
        raise kind(what, str(error)) from error


def _spot(lease: LeaseRecord) -> Spot:
    return Spot(lease.path, lease.offset, lease.geometry.alignment, lease.geometry.block_size)
