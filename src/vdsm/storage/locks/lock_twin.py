"""Locks in memory: ``ClusterLock`` without storage, with several hosts that can be killed, for tests.

    SharedDisk          what is on the storage: who is under which host id, and who has which lease
    TwinHost            one host with its keeper and one process; ``locks`` makes its locks (``lock_maker.LockMaker``)
    TwinLock            ClusterLock of one domain on one host

    host.kill_process()      the process ends: its leases are free at once
    host.power_off()         all ends; other hosts cannot know: its leases stay taken until
    disk.expire(host)        the other hosts may take it for dead
    host.stop_keeper()       the keeper is gone, and with it what it says about leases
    host.silence()           the storage does not answer this host

A lease belongs to a host id and its generation, as sanlock's do.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from math import inf
from typing import Final

from vdsm.storage.backend import SharedArea
from vdsm.storage.clusterlock import LeaseState, Membership
from vdsm.storage.errors import HostIdFailed, InvalidParameter, LeaseFailed, LeaseHeld
from vdsm.storage.formats.leases import VALUE_SIZE, Geometry, LeaseRecord, host_sector_offset, sdm_lease, value_offset
from vdsm.storage.ids import DomainId
from vdsm.storage.kinds import StorageType

_Place = tuple[str, int]


@dataclass(slots=True)
class _Seat:
    """A host id of a lockspace: whose it is, and for the how manieth time it is taken."""

    host: TwinHost | None = None
    generation: int = 0


@dataclass(slots=True)
class _Lease:
    """A lease on the disk; the owner is a host id and the generation under which it took it."""

    lockspace: str
    resource: str
    owner: tuple[int, int] | None = None
    version: int = 0
    value: bytes = bytes(VALUE_SIZE)


@dataclass(slots=True)
class _Held:
    """What a process has; a new value is on the disk with the release."""

    has_value: bool
    value: bytes


@dataclass(slots=True)
class SharedDisk:
    """See the module. Values of leases in one of the ``areas``, by path, are also in its bytes, as on a real disk."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    seats: dict[tuple[str, int], _Seat] = field(default_factory=dict)
    leases: dict[_Place, _Lease] = field(default_factory=dict)
    areas: dict[str, SharedArea] = field(default_factory=dict)

    def write_value(self, lease: LeaseRecord, value: bytes) -> None:
        """Put a lease's value where it stays."""
        self.leases[lease.path, lease.offset].value = value
        if lease.path in self.areas:
            sector = value.ljust(lease.geometry.block_size, b"\0")
            self.areas[lease.path].write(lease.offset + value_offset(lease.geometry), sector)

    def expire(self, host: TwinHost) -> None:
        """So much time has passed that a host without power counts as dead."""
        with self.lock:
            for seat in self.seats.values():
                if seat.host is host and not host.powered:
                    seat.host = None


class TwinHost:
    """See the module."""

    def __init__(self, disk: SharedDisk, name: str = "host") -> None:
        self.name: Final = name
        self.disk: Final = disk
        self.powered = True
        self.answers = True
        self.keeper = True
        self.valid_s = inf
        self.held: dict[_Place, _Held] = {}
        self._locks: dict[tuple[DomainId, str], TwinLock] = {}

    def locks(
        self,
        domain_id: DomainId,
        kind: StorageType,  # noqa: ARG002 - all kinds are the same in memory
        ids_path: str,
        leases_path: str,
        geometry: Geometry,
    ) -> TwinLock:
        """The lock of a domain on this host: ``lock_maker.LockMaker``."""
        with self.disk.lock:
            return self._locks.setdefault(
                (domain_id, leases_path), TwinLock(self, domain_id, (ids_path, leases_path), geometry)
            )

    def kill_process(self) -> None:
        """The process ends; the host lives on and starts another."""
        with self.disk.lock:
            for place in list(self.held):
                self.drop(place)

    def power_off(self) -> None:
        """Everything on the host ends; the storage says what it said."""
        with self.disk.lock:
            self.powered = False
            self.held.clear()

    def power_on(self) -> None:
        """It comes back, without anything that it had."""
        with self.disk.lock:
            for seat in self.disk.seats.values():
                if seat.host is self:
                    seat.host = None
            self.powered = self.answers = self.keeper = True

    def stop_keeper(self) -> None:
        """The keeper ends; nobody renews this host's ids."""
        self.keeper = False

    def silence(self, *, silent: bool = True) -> None:
        """The storage does not answer this host, or does again."""
        self.answers = not silent

    def drop(self, place: _Place) -> None:
        """Free a lease of this host's process on the disk."""
        self.held.pop(place, None)
        self.disk.leases[place].owner = None

    def write_lockspace(self, lockspace: LeaseRecord) -> None:
        """See backend.LeaseWriter."""
        self.check("formatting a lockspace")
        with self.disk.lock:
            for key in [key for key in self.disk.seats if key[0] == lockspace.lockspace]:
                del self.disk.seats[key]

    def write_resource(self, resource: LeaseRecord) -> None:
        """See backend.LeaseWriter. Empty names clear the place."""
        self.check(f"formatting lease {resource.resource}")
        place = (resource.path, resource.offset)
        with self.disk.lock:
            self.disk.leases.pop(place, None)
            if resource.resource:
                self.disk.leases[place] = _Lease(resource.lockspace, resource.resource)
                self.disk.write_value(resource, bytes(VALUE_SIZE))

    def read_names(self, resource: LeaseRecord) -> tuple[str, str] | None:
        """The lockspace and the resource whose lease is at the record's place; None when there is none."""
        self.check(f"reading the lease at {resource.offset}")
        with self.disk.lock:
            found = self.disk.leases.get((resource.path, resource.offset))
            return (found.lockspace, found.resource) if found else None

    def check(self, what: str) -> None:
        """Whether anything can be asked.

        Raises:
            LeaseFailed: the keeper is gone, or the storage does not answer.
        """
        if not self.keeper or not self.powered:
            raise LeaseFailed(what, "the keeper is gone")
        if not self.answers:
            raise LeaseFailed(what, "the storage does not answer")


class TwinLock:
    """See the module; made by TwinHost."""

    def __init__(self, host: TwinHost, domain_id: DomainId, paths: tuple[str, str], geometry: Geometry) -> None:
        self._host: Final = host
        self._disk: Final = host.disk
        self._domain_id: Final = domain_id
        self._ids_path: Final = paths[0]
        self._geometry: Final = geometry
        self._sdm: Final = sdm_lease(domain_id, paths[1], geometry)

    def format(self) -> None:
        """See ClusterLock."""
        self._host.write_lockspace(LeaseRecord(self._domain_id, "", self._ids_path, 0, self._geometry))
        self._host.write_resource(self._sdm)

    def join(self, host_id: int, *, wait_s: float | None) -> None:  # noqa: ARG002 - it is done at once
        """See ClusterLock."""
        host_sector_offset(host_id, self._geometry)
        what = f"joining domain {self._domain_id} as host {host_id}"
        if not self._host.keeper or not self._host.answers:
            raise HostIdFailed(what, "the storage does not answer")
        with self._disk.lock:
            if any(seat.host is self._host for other, seat in self._seats() if other != host_id):
                raise HostIdFailed(what, "this host has joined under another id")
            seat = self._disk.seats.setdefault((self._domain_id, host_id), _Seat())
            if seat.host is self._host:
                return
            if seat.host is not None:
                raise HostIdFailed(what, f"{seat.host.name} has the id")
            seat.host = self._host
            seat.generation += 1

    def leave(self, host_id: int) -> None:
        """See ClusterLock."""
        what = f"leaving domain {self._domain_id} as host {host_id}"
        if not self._host.keeper or not self._host.answers:
            raise HostIdFailed(what, "the storage does not answer")
        with self._disk.lock:
            seat = self._disk.seats.get((self._domain_id, host_id))
            if seat is None or seat.host is not self._host:
                return
            if any(self._disk.leases[place].lockspace == self._domain_id for place in self._host.held):
                raise HostIdFailed(what, "leases are still held")
            seat.host = None

    def membership(self, host_id: int) -> Membership:
        """See ClusterLock."""
        with self._disk.lock:
            return Membership.YES if self._mine(host_id) else Membership.NO

    @property
    def sdm(self) -> LeaseRecord:
        """See ClusterLock."""
        return self._sdm

    def acquire(self, lease: LeaseRecord, host_id: int, *, value: bool = False) -> None:
        """See ClusterLock."""
        what = f"taking lease {lease.resource} of domain {self._domain_id}"
        self._host.check(what)
        with self._disk.lock:
            seat = self._mine(host_id)
            if seat is None:
                raise LeaseFailed(what, f"the domain is not joined as host {host_id}")
            found = self._find(lease, what)
            if self._owner(found) is not None:
                raise LeaseHeld(lease.resource, self._domain_id, f"host {self._owner(found)}")
            found.owner = (host_id, seat.generation)
            found.version += 1
            self._host.held[lease.path, lease.offset] = _Held(value, found.value)

    def release(self, lease: LeaseRecord) -> None:
        """See ClusterLock."""
        place = (lease.path, lease.offset)
        with self._disk.lock:
            held = self._host.held.get(place)
            if held is None:
                return
            self._host.check(f"giving lease {lease.resource} back")
            if held.has_value:
                self._disk.write_value(lease, held.value)
            self._host.drop(place)

    def holds(self, lease: LeaseRecord) -> bool:
        """See ClusterLock."""
        return self._host.keeper and self._host.powered and (lease.path, lease.offset) in self._host.held

    def valid_for_s(self, host_id: int) -> float:
        """See ClusterLock: what the host's ``valid_s`` says."""
        if not self._host.keeper or self._mine(host_id) is None:
            raise LeaseFailed(f"asking for host {host_id}", f"it has not joined domain {self._domain_id}")
        return self._host.valid_s

    def inspect(self, lease: LeaseRecord) -> LeaseState:
        """See ClusterLock."""
        what = f"looking at lease {lease.resource} of domain {self._domain_id}"
        self._host.check(what)
        with self._disk.lock:
            found = self._find(lease, what)
            owner = self._owner(found)
            if found.owner is None:
                return LeaseState()
            return LeaseState(() if owner is None else (owner,), found.version)

    def read_value(self, lease: LeaseRecord) -> bytes:
        """See ClusterLock."""
        return self._with_value(lease).value

    def write_value(self, lease: LeaseRecord, value: bytes) -> None:
        """See ClusterLock."""
        if len(value) > VALUE_SIZE:
            raise InvalidParameter("value", f"must fit in {VALUE_SIZE} bytes, takes {len(value)}")
        self._with_value(lease).value = value.ljust(VALUE_SIZE, b"\0")

    def _with_value(self, lease: LeaseRecord) -> _Held:
        what = f"the value of lease {lease.resource}"
        self._host.check(what)
        held = self._host.held.get((lease.path, lease.offset))
        if held is None or not held.has_value:
            raise LeaseFailed(what, "the lease was not taken with its value")
        return held

    def _seats(self) -> list[tuple[int, _Seat]]:
        return [(host_id, seat) for (name, host_id), seat in self._disk.seats.items() if name == self._domain_id]

    def _mine(self, host_id: int) -> _Seat | None:
        seat = self._disk.seats.get((self._domain_id, host_id))
        return seat if seat is not None and seat.host is self._host else None

    def _find(self, lease: LeaseRecord, what: str) -> _Lease:
        found = self._disk.leases.get((lease.path, lease.offset))
        if found is None or (found.lockspace, found.resource) != (lease.lockspace, lease.resource):
            raise LeaseFailed(what, "there is no such lease")
        return found

    def _owner(self, lease: _Lease) -> int | None:
        """The host id that has it, unless that host is dead or came back under a new generation."""
        if lease.owner is None:
            return None
        host_id, generation = lease.owner
        seat = self._disk.seats.get((lease.lockspace, host_id))
        return host_id if seat is not None and seat.host is not None and seat.generation == generation else None
